"""Triton's entry point: tensors in, tensors out; the computation is in `forecasting`."""

import triton_python_backend_utils as pb_utils

import forecasting


class TritonPythonModel:
    """The class that Triton's Python backend looks for."""

    def execute(self, requests):
        return [self._answer(request) for request in requests]

    def _answer(self, request):
        series = pb_utils.get_input_tensor_by_name(request, "SERIES").as_numpy()
        horizon = pb_utils.get_input_tensor_by_name(request, "HORIZON").as_numpy()
        try:
            forecast = forecasting.forecast(series, int(horizon[0]))
        except ValueError as error:
            return pb_utils.InferenceResponse(error=pb_utils.TritonError(str(error)))
        return pb_utils.InferenceResponse(
            output_tensors=[pb_utils.Tensor("FORECAST", forecast)]
        )
