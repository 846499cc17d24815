/* Runs a fuzz target on files: its corpus, where there is no libFuzzer. */

#include "testing.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int
main(int argc, char **argv)
{
    CHECK(argc > 1);
    for (int i = 1; i < argc; i++) {
        FILE *file = fopen(argv[i], "rb");
        CHECK(file != NULL);
        CHECK(fseek(file, 0, SEEK_END) == 0);
        const long size = ftell(file);
        CHECK(size >= 0 && fseek(file, 0, SEEK_SET) == 0);
        /* Its own allocation, so that a byte too far is seen. */
        uint8_t *data = malloc((size_t)size + (size == 0));
        CHECK(data != NULL && fread(data, 1, (size_t)size, file) == (size_t)size);
        (void)LLVMFuzzerTestOneInput(data, (size_t)size);
        free(data);
        fclose(file);
    }
    return 0;
}
