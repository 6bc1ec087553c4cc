/* SPDX-License-Identifier: Apache-2.0
 *
 * Loading the script named by GPULEDGER_ABI_SCRIPT. A script that cannot be read is a mistake
 * of the test, so the process ends with one sentence that names file and line.
 */
#define _GNU_SOURCE
#include "abi.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct script script = {
    .utilization_period_ns = SECOND_NS,
    .gpm_refresh_ns = 100 * MS_NS,
    .samples_hz = 6,
    .samples_ring = 120,
    .driver = "570.124.06",
    .nvml = "12.570.124.06",
    .cuda = 12080,
};

_Noreturn void fail(const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    fputs("scripted NVML: ", stderr);
    vfprintf(stderr, format, arguments);
    fputc('\n', stderr);
    va_end(arguments);
    _exit(97);
}

void *list_grow(void *items, size_t *count, size_t *capacity, size_t size)
{
    if (*count == *capacity) {
        *capacity = *capacity == 0 ? 8 : *capacity * 2;
        items = realloc(items, *capacity * size);
        if (items == NULL) fail("out of memory");
    }
    memset((char *)items + *count * size, 0, size);
    (*count)++;
    return items;
}

void script_finish(void)
{
    for (unsigned int g = 0; g < script.gpu_count; g++) {
        struct gpu *gpu = &script.gpus[g];
        for (int t = 0; t < TRACK_COUNT; t++) track_finish(&gpu->tracks[t]);
        for (size_t i = 0; i < gpu->instances.count; i++)
            for (int t = 0; t < TRACK_COUNT; t++) track_finish(&gpu->instances.items[i]->tracks[t]);
    }
}

void script_load(void)
{
    const char *path = getenv("GPULEDGER_ABI_SCRIPT");
    if (path == NULL || *path == '\0') fail("GPULEDGER_ABI_SCRIPT names no script");
    FILE *file = fopen(path, "re");
    if (file == NULL) fail("%s: the script cannot be read", path);
    char *line = NULL, where[512];
    size_t size = 0;
    for (unsigned long number = 1; getline(&line, &size, file) >= 0; number++) {
        line[strcspn(line, "\r\n")] = '\0';
        snprintf(where, sizeof where, "%s line %lu", path, number);
        if (number == 1) {
            if (strcmp(line, "gpuledger-abi 1") != 0) fail("%s: expected 'gpuledger-abi 1'", where);
            continue;
        }
        if (line[0] != '\0' && line[0] != '#') parse_line(line, where);
    }
    free(line);
    fclose(file);
    script_finish();
}
