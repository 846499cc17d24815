"""Runs what OPA compiles to WebAssembly, on wasmtime.

The interface between the two is OPA's Wasm ABI 1.2
(https://www.openpolicyagent.org/docs/latest/wasm/). A module is compiled once for all
policies; an instance holds one policy's data and belongs to one thread at a time.

An evaluation is one call. Its arguments go into an array that is made once, and the
input is written straight into the instance's memory behind the data, where the next
evaluation overwrites it: wasmtime's own way of calling, which converts and checks every
argument, takes ten times as long as the evaluation.

A host function's arguments and result cross as text in Rego's notation, since JSON has
no sets. They lie behind the data too, and are gone with the next evaluation.
"""

from __future__ import annotations

import ctypes
import functools
import json
import struct
import threading
import time
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import wasmtime
from wasmtime import _bindings as ffi
from wasmtime._ffi import dll

from authz_server.policy.builtins.values import (
    RefusedError,
    UndefinedError,
    dump_value,
    parse_value,
)
from authz_server.policy.evaluation_clock import TICK_S, EvaluationClock

PAGE_BYTES: Final = 64 * 1024

Builtin = Callable[..., Any]
"""A built-in function that OPA leaves to its host: values in, one out.

`authz_server.policy.builtins.values` says what they are. `UndefinedError` makes the
expression undefined, any other exception fails the evaluation.
"""


@dataclass(frozen=True, slots=True)
class ReadsClock:
    """A built-in function whose answer may depend on when it is asked.

    Attributes:
        function: gets the clock before its other arguments. Within one evaluation the
            clock stands still.
    """

    function: Builtin


_NEVER: Final = 1 << 40
_ENV: Final = "env"
_MAX_ARGUMENTS: Final = 4
_ALIGNMENT: Final = 8
_SHORT: Final = 512
_EVAL_ARGUMENTS: Final = 7
_EVAL: Final = struct.Struct("=" + _EVAL_ARGUMENTS * "I12x")
"""The arguments of `opa_eval`, each in the 16 bytes of a `wasmtime_val_raw_t`."""
_ANSWER: Final = struct.Struct("=I")
_JSON: Final = 0
"""The form in which `opa_eval` gives its result."""
_MINOR_WITH_EVAL: Final = 2

# The two functions of every evaluation, which get addresses as plain integers: by the
# declarations of wasmtime's Python side each argument becomes an object, and making
# those takes longer than the call. Asked for by item, a function is one of our own.
_call_unchecked: Final = dll["wasmtime_func_call_unchecked"]
_call_unchecked.argtypes = (
    *(ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p),
    *(ctypes.c_size_t, ctypes.c_void_p),
)
_call_unchecked.restype = ctypes.c_void_p
_set_epoch_deadline: Final = dll["wasmtime_context_set_epoch_deadline"]
_set_epoch_deadline.argtypes = (ctypes.c_void_p, ctypes.c_uint64)
_set_epoch_deadline.restype = None

# wasmtime's Python side keeps the host functions of all stores in one table, which it
# does not lock.
_lifecycle: Final = threading.Lock()


class WasmError(Exception):
    """The module is not what OPA builds, or an evaluation failed."""


class WasmTimeoutError(WasmError):
    """An evaluation took too long and was cut off."""


class Module:
    """A policy's code. Safe to share between threads.

    Args:
        builtins: host functions by name; those that the code uses and that are not
            among them are in `missing`.

    Raises:
        WasmError: if `wasm` is not a policy built by OPA for this ABI.
    """

    def __init__(
        self, wasm: bytes, builtins: Mapping[str, Builtin | ReadsClock]
    ) -> None:
        with _lifecycle:
            self.engine, self.clock = _engine()
        try:
            self.code = wasmtime.Module(self.engine, wasm)
        except wasmtime.WasmtimeError as error:
            raise WasmError(_first_line(error)) from error
        # Memory for what the code itself holds, which is no more than its size.
        self.first_pages = 16 + len(wasm) // PAGE_BYTES
        self.host_functions: Mapping[int, tuple[str, Builtin | ReadsClock]] = {}
        probe = Instance(self, b"{}", max_pages=self.first_pages + 16)
        try:
            self.entrypoints: Mapping[str, int] = probe.names("entrypoints")
            numbers = probe.names("builtins")
        finally:
            probe.close()
        self.missing = sorted(numbers.keys() - builtins.keys())
        # By number, not by place: what Wasm has itself has a number too.
        self.host_functions = {
            number: (name, builtins.get(name, _refuse))
            for name, number in numbers.items()
        }


class Instance:
    """A module with data, for one thread at a time.

    Args:
        data: the data document, JSON.
        max_pages: of 64 KiB, that it may take at most.
        clock_ns: what the time is, in nanoseconds since the Unix epoch.

    Raises:
        WasmError: if it cannot be made, or `data` is not JSON.
    """

    def __init__(
        self,
        module: Module,
        data: bytes,
        *,
        max_pages: int,
        clock_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        self._module = module
        self._clock = module.clock
        self._failure = ""
        self._clock_ns = clock_ns
        self._now_ns: int | None = None
        with _lifecycle:
            self._store = wasmtime.Store(module.engine)
            try:
                self._store.set_epoch_deadline(_NEVER)
                self._memory = wasmtime.Memory(
                    self._store,
                    wasmtime.MemoryType(wasmtime.Limits(module.first_pages, max_pages)),
                )
                linker = wasmtime.Linker(module.engine)
                self._define_imports(linker)
                exports = linker.instantiate(self._store, module.code).exports(
                    self._store
                )
            except (wasmtime.WasmtimeError, wasmtime.Trap) as error:
                self._store.close()
                raise WasmError(_first_line(error)) from error
        try:
            functions = _functions(exports, self._store)
            # Kept, as the addresses are those of parts of them.
            self._exports = functions
            self._functions = {
                name: ctypes.addressof(function._func)  # noqa: SLF001 - no public way
                for name, function in functions.items()
            }
            self._context = _address(self._store._context())  # noqa: SLF001
            self._trap = ctypes.POINTER(ffi.wasm_trap_t)()
            self._base = _address(self._memory.data_ptr(self._store))
            self._known_size = 0
            self._size()
            self._arguments = (ffi.wasmtime_val_raw_t * _EVAL_ARGUMENTS)()
            self._eval = self._functions["opa_eval"]
            self._data = self._parse(data)
            # From here on memory is the evaluations'.
            self._free = self._call("opa_heap_ptr_get")
        except WasmError:
            self.close()
            raise

    def close(self) -> None:
        """Free its memory; it must not be used any more."""
        with _lifecycle:
            self._store.close()

    def evaluate(
        self, document: bytes, entrypoint: int, *, timeout_s: float, max_bytes: int
    ) -> bytes:
        """Return the result set of an entrypoint, as JSON.

        Args:
            document: the input, JSON. OPA takes what it cannot read for no input.
            timeout_s: enforced in steps of `TICK_S`, and never early.
            max_bytes: of the result.

        Raises:
            WasmTimeoutError: if it ran too long.
            WasmError: if it failed otherwise. Either way the instance is spoilt.
        """
        self._now_ns = None
        size = len(document)
        heap = -(-(self._free + size) // _ALIGNMENT) * _ALIGNMENT
        if heap > self._known_size:
            self._make_room(heap)
        self._view[self._free : self._free + size] = document
        arguments = self._arguments
        _EVAL.pack_into(
            arguments, 0, 0, entrypoint, self._data, self._free, size, heap, _JSON
        )
        # One tick more, as the first may come at once.
        _set_epoch_deadline(self._context, int(timeout_s / TICK_S) + 2)
        self._clock.begin()
        try:
            self._run(self._eval, arguments, _EVAL_ARGUMENTS)
        finally:
            self._clock.end()
        return self._text(_ANSWER.unpack_from(arguments)[0], max_bytes)

    @property
    def has_read_clock(self) -> bool:
        """Whether the last evaluation asked for the time."""
        return self._now_ns is not None

    def names(self, export: str) -> dict[str, int]:
        """Return the numbers of ``entrypoints`` or ``builtins`` by name."""
        found = json.loads(self._dump(self._call(export)))
        return {str(name): int(number) for name, number in found.items()}

    # The host's side of the module.

    def _define_imports(self, linker: wasmtime.Linker) -> None:
        wanted = {
            entry.name: entry.type
            for entry in self._module.code.imports
            if entry.module == _ENV
        }
        if not isinstance(wanted.get("memory"), wasmtime.MemoryType):
            raise wasmtime.WasmtimeError("it imports no memory, so it is no policy")
        linker.define(self._store, _ENV, "memory", self._memory)
        host = _Host(self)
        functions: dict[str, Callable[..., int | None]] = {
            "opa_abort": host.abort,
            "opa_println": host.print_line,
        }
        for count in range(_MAX_ARGUMENTS + 1):
            functions[f"opa_builtin{count}"] = host.call_builtin
        for name, function in functions.items():
            kind = wanted.get(name)
            if isinstance(kind, wasmtime.FuncType):
                linker.define(
                    self._store, _ENV, name, wasmtime.Func(self._store, kind, function)
                )

    def call_builtin(self, number: int, arguments: Sequence[int]) -> int:
        """Return where the result of a host function is; 0 if it is undefined."""
        name, function = self._module.host_functions[number]
        texts = [self._dump(address) for address in arguments]
        self._failure = f"the built-in function {name} failed"
        try:
            values = [parse_value(text.decode()) for text in texts]
            if isinstance(function, ReadsClock):
                result = function.function(self._read_clock, *values)
            else:
                result = function(*values)
            text = dump_value(result).encode()
        except UndefinedError:
            return 0
        except RefusedError as error:
            # Such a message has nothing in it that a request said.
            self._failure = f"the built-in function {name} gave up: {error}"
            raise
        return self._parse(text, "opa_value_parse")

    def _read_clock(self) -> int:
        if self._now_ns is None:
            self._now_ns = self._clock_ns()
        return self._now_ns

    def fail(self, why: str) -> None:
        """Note why the evaluation is about to end."""
        self._failure = why

    def message(self, address: int) -> str:
        """Return the text at `address`, for people."""
        return self._text(address & 0xFFFFFFFF, PAGE_BYTES).decode("utf-8", "replace")

    # Values and memory.

    def _parse(self, document: bytes, parser: str = "opa_json_parse") -> int:
        place = self._call("opa_malloc", len(document))
        # The module says where, and it must not be outside of its own memory.
        if place + len(document) > self._size():
            raise WasmError("its memory is not where it says")
        self._view[place : place + len(document)] = document
        value = self._call(parser, place, len(document))
        if not value:
            raise WasmError("it is not JSON")
        return value

    def _dump(self, address: int) -> bytes:
        return self._text(self._call("opa_value_dump", address), self._size())

    def _text(self, address: int, max_bytes: int) -> bytes:
        """Return the text at `address`, which ends with a zero."""
        if address + _SHORT <= self._known_size and max_bytes >= _SHORT:
            text = self._view[address : address + _SHORT].tobytes()
            end = text.find(b"\0")
            if end >= 0:
                return text[:end]
        room = min(max_bytes + 1, self._size() - address)
        if room <= 0:
            raise WasmError("its result is not where it says")
        count = min(room, _SHORT)
        while True:
            text = self._view[address : address + count].tobytes()
            end = text.find(b"\0")
            if end >= 0:
                return text[:end]
            if count == room:
                break
            # In steps, as behind a text there may be gigabytes.
            count = min(room, 8 * count)
        raise WasmError(f"the result is longer than {max_bytes} bytes")

    def _size(self) -> int:
        # It only ever grows, and stays where it is.
        size = self._memory.data_len(self._store)
        if size != self._known_size:
            self._known_size = size
            whole = (ctypes.c_char * size).from_address(self._base)
            self._view = memoryview(whole).cast("B")
        return size

    def _make_room(self, end: int) -> None:
        missing = end - self._size()
        if missing > 0:
            try:
                self._memory.grow(self._store, -(-missing // PAGE_BYTES))
            except wasmtime.WasmtimeError as error:
                raise WasmError("it needs more memory than it may take") from error
            self._size()

    def _call(self, name: str, *values: int) -> int:
        arguments = (ffi.wasmtime_val_raw_t * max(1, len(values)))()
        for position, value in enumerate(values):
            arguments[position].i32 = value
        self._run(self._functions[name], arguments, len(arguments))
        return arguments[0].i32 & 0xFFFFFFFF

    def _run(self, function: int, arguments: Any, count: int) -> None:  # noqa: ANN401 - a ctypes array
        self._failure = ""
        trap = self._trap
        error = _call_unchecked(
            self._context,
            function,
            ctypes.addressof(arguments),
            count,
            ctypes.addressof(trap),
        )
        if error:
            pointer = ctypes.cast(error, ctypes.POINTER(ffi.wasmtime_error_t))
            failure = wasmtime.WasmtimeError._from_ptr(pointer)  # noqa: SLF001
            raise WasmError(self._failure or _first_line(failure)) from failure
        if bool(trap):
            cause = wasmtime.Trap._from_ptr(trap)  # noqa: SLF001
            if cause.trap_code is wasmtime.TrapCode.INTERRUPT:
                raise WasmTimeoutError("it ran too long and was cut off") from cause
            raise WasmError(self._failure or _first_line(cause)) from cause


class _Host:
    """The functions that the module calls; they do not keep its instance alive."""

    def __init__(self, instance: Instance) -> None:
        self._instance = weakref.ref(instance)

    def abort(self, address: int) -> None:
        instance = self._instance()
        if instance is not None:
            instance.fail(instance.message(address))
        raise WasmError("abort")

    def print_line(self, address: int) -> None:
        """Say nothing: what a policy prints may hold what a request said."""

    def call_builtin(self, number: int, _: int, *arguments: int) -> int:
        instance = self._instance()
        if instance is None:
            raise WasmError("closed")
        return instance.call_builtin(number, arguments)


def _refuse(*_: object) -> None:
    raise WasmError("there is no such function")


def _functions(exports: Any, store: wasmtime.Store) -> dict[str, wasmtime.Func]:  # noqa: ANN401 - untyped there
    """Return the functions of the ABI.

    Raises:
        WasmError: if one is missing, or has other arguments than the ABI says. What is
            called unchecked must be checked before.
    """
    minor = exports.get("opa_wasm_abi_minor_version")
    if not isinstance(minor, wasmtime.Global) or minor.value(store) < _MINOR_WITH_EVAL:
        raise WasmError("it was not built by OPA for its ABI 1.2 or newer")
    functions: dict[str, wasmtime.Func] = {}
    for name, (arguments, results) in _SIGNATURES.items():
        function = exports.get(name)
        if not isinstance(function, wasmtime.Func):
            raise WasmError(f"it does not export {name}")
        kind = function.type(store)
        if [str(item) for item in kind.params] != ["i32"] * arguments or [
            str(item) for item in kind.results
        ] != ["i32"] * results:
            raise WasmError(f"its {name} has other arguments than OPA's")
        functions[name] = function
    return functions


_SIGNATURES: Final = {
    "opa_eval": (7, 1),
    "opa_malloc": (1, 1),
    "opa_json_parse": (2, 1),
    "opa_value_parse": (2, 1),
    "opa_value_dump": (1, 1),
    "opa_heap_ptr_get": (0, 1),
    "entrypoints": (0, 1),
    "builtins": (0, 1),
}


@functools.cache
def _engine() -> tuple[wasmtime.Engine, EvaluationClock]:
    """Return the engine of all modules, and the clock that cuts evaluations off.

    One for the whole process, which is never freed. A clock that only looked whether
    its engine is still there could look while that is being freed: a weak reference
    lives until after the finalizer. To be called under `_lifecycle`: two of them would
    be one too many.
    """
    config = wasmtime.Config()
    config.epoch_interruption = True
    # Within its reservation of 4 GiB memory grows where it is, so that its address is
    # asked for once.
    ffi.wasmtime_config_memory_may_move_set(config.ptr(), False)  # noqa: FBT003
    engine = wasmtime.Engine(config)
    return engine, EvaluationClock(engine.increment_epoch, "policy-clock")


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def _address(pointer: Any) -> int:  # noqa: ANN401 - a ctypes pointer
    return ctypes.cast(pointer, ctypes.c_void_p).value or 0
