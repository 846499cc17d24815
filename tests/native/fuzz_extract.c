/* One CheckRequest for the extractor; the first byte chooses the plan. */

#include "extract_harness.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    harness_run(data, size);
    return 0;
}
