/* The fuzzer's corpus, for other programs of the extractor's. They run in this folder. */

#ifndef AUTHZ_TESTS_EXTRACT_CORPUS_H
#define AUTHZ_TESTS_EXTRACT_CORPUS_H

#include <dirent.h>
#include <string.h>

#include "testing.h"

#define CORPUS "corpus/extract"
#define MAX_INPUTS 256
#define MAX_INPUT_BYTES (64u << 10)

typedef struct input {
    uint8_t *data;
    size_t size;
} input;

typedef struct corpus {
    input inputs[MAX_INPUTS];
    size_t count;
} corpus;

static inline void
read_corpus(corpus *all)
{
    DIR *folder = opendir(CORPUS);
    CHECK(folder != NULL);
    all->count = 0;
    for (struct dirent *entry; (entry = readdir(folder)) != NULL;) {
        if (entry->d_name[0] == '.') {
            continue;
        }
        char path[512];
        snprintf(path, sizeof path, "%s/%s", CORPUS, entry->d_name);
        FILE *file = fopen(path, "rb");
        CHECK(file != NULL && all->count < MAX_INPUTS);
        uint8_t *data = malloc(MAX_INPUT_BYTES);
        CHECK(data != NULL);
        size_t size = fread(data, 1, MAX_INPUT_BYTES, file);
        CHECK(size < MAX_INPUT_BYTES);
        all->inputs[all->count++] = (input){data, size};
        fclose(file);
    }
    closedir(folder);
    CHECK(all->count > 0);
}

static inline void
free_corpus(corpus *all)
{
    for (size_t index = 0; index < all->count; index++) {
        free(all->inputs[index].data);
    }
}

#endif
