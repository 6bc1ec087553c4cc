/* SPDX-License-Identifier: Apache-2.0
 *
 * The common entry of every call: counting, tracing, latency, error rules, lost GPUs.
 */
#define _GNU_SOURCE
#include "abi.h"

#include <inttypes.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

const char *const function_names[FUNCTION_COUNT] = {
#define NAME_ENTRY(name) [CALL_##name] = #name,
    FUNCTIONS(NAME_ENTRY)
#undef NAME_ENTRY
};

_Atomic int initialised;
static _Atomic uint64_t calls[FUNCTION_COUNT];
static pthread_once_t loaded = PTHREAD_ONCE_INIT;
static FILE *trace;

static void load(void)
{
    clock_open();
    script_load();
    const char *path = getenv("GPULEDGER_ABI_TRACE");
    if (path == NULL || *path == '\0') return;
    trace = fopen(path, "ae");
    if (trace == NULL) fail("%s: the call trace cannot be written", path);
}

/* Rules on "*" leave these out: an agent could not even say what is wrong, or let go. */
static bool always_works(enum function function)
{
    return function == CALL_nvmlShutdown;
}

static bool matches(const struct rule *rule, enum function function, const struct gpu *gpu, int64_t at_ns)
{
    if (rule->function == ANY ? always_works(function) : rule->function != (int)function) return false;
    if (rule->gpu != ANY && (gpu == NULL || gpu->index != (unsigned int)rule->gpu)) return false;
    if (rule->instance == BOARD && gpu->board != NULL) return false;
    if (rule->instance >= 0 && (gpu->board == NULL || gpu->ordinal != (unsigned int)rule->instance)) return false;
    return rule->from_ns <= at_ns && at_ns < rule->to_ns;
}

static nvmlReturn_t apply_rules(enum function function, const struct gpu *gpu, int64_t at_ns)
{
    nvmlReturn_t result = NVML_SUCCESS;
    int64_t latency_ns = 0;
    for (size_t i = 0; i < script.rules.count; i++) {
        struct rule *rule = &script.rules.items[i];
        if (rule->kind == RULE_FIELD || !matches(rule, function, gpu, at_ns)) continue;
        if (rule->kind == RULE_KILL) raise(SIGKILL);
        if (rule->kind == RULE_LATENCY) {
            latency_ns += rule->latency_ns;
            continue;
        }
        if (rule->kind == RULE_FAIL && rule->seen++ % rule->of != rule->nth) continue;
        if (result == NVML_SUCCESS) result = rule->code;
    }
    clock_advance(latency_ns);
    return result;
}

static nvmlReturn_t outage(enum function function, const struct gpu *gpu, int64_t at_ns)
{
    bool handle = function == CALL_nvmlDeviceGetHandleByIndex_v2 || function == CALL_nvmlDeviceGetHandleByUUID;
    for (size_t i = 0; i < gpu->outages.count; i++) {
        const struct outage *item = &gpu->outages.items[i];
        if (item->from_ns <= at_ns && at_ns < item->to_ns && (!handle || item->handle_fails))
            return item->code;
    }
    return NVML_SUCCESS;
}

static nvmlReturn_t enter_gpu(enum function function, struct gpu *gpu, bool valid, struct call *call)
{
    pthread_once(&loaded, load);
    calls[function]++;
    bool starting = function == CALL_nvmlInit_v2 || function == CALL_nvmlInitWithFlags;
    int64_t begin_ns = clock_now_ns();
    nvmlReturn_t result;
    if (!starting && initialised <= 0)
        result = NVML_ERROR_UNINITIALIZED;
    else if (!valid)
        result = NVML_ERROR_INVALID_ARGUMENT;
    else
        result = apply_rules(function, gpu, begin_ns);
    call->gpu = gpu;
    call->device = NULL;
    call->now_ns = clock_now_ns();
    if (result == NVML_SUCCESS && gpu != NULL)
        result = outage(function, gpu->board == NULL ? gpu : gpu->board, call->now_ns);
    if (trace != NULL)
        fprintf(trace, "%" PRId64 " %" PRId64 " %s %d %d\n", begin_ns, call->now_ns, function_names[function],
                gpu == NULL ? -1 : (int)gpu->index, (int)result);
    return result;
}

nvmlReturn_t enter(enum function function, struct call *call)
{
    return enter_gpu(function, NULL, true, call);
}

/* A handle outlives what it was given for: it then means nothing, or whatever has its slot now. */
static nvmlReturn_t enter_slot(enum function function, struct slot *slot, struct call *call)
{
    struct gpu *instance;
    bool is_there = device_in_slot(slot, clock_now_ns(), &instance) != NULL;
    nvmlReturn_t result = enter_gpu(function, is_there ? instance : slot->board, true, call);
    if (result != NVML_SUCCESS) return result;
    call->device = device_in_slot(slot, call->now_ns, &call->gpu);
    return call->device == NULL ? NVML_ERROR_INVALID_ARGUMENT : NVML_SUCCESS;
}

nvmlReturn_t enter_any(enum function function, nvmlDevice_t device, struct call *call)
{
    /* Handles point at our own table: anything else is a caller's mistake, not a crash. */
    for (unsigned int i = 0; i < script.gpu_count; i++)
        if ((void *)device == (void *)&script.gpus[i])
            return enter_gpu(function, &script.gpus[i], true, call);
    for (unsigned int i = 0; i < script.gpu_count; i++)
        for (unsigned int s = 0; s < MAX_SLOTS; s++)
            if ((void *)device == (void *)&script.gpus[i].slots[s])
                return enter_slot(function, &script.gpus[i].slots[s], call);
    return enter_gpu(function, NULL, false, call);
}

nvmlReturn_t enter_device(enum function function, nvmlDevice_t device, struct call *call)
{
    nvmlReturn_t result = enter_any(function, device, call);
    return result == NVML_SUCCESS && call->gpu->board != NULL ? NVML_ERROR_NOT_SUPPORTED : result;
}

nvmlReturn_t enter_instance(enum function function, nvmlDevice_t device, unsigned int id, struct call *call)
{
    for (unsigned int i = 0; i < script.gpu_count; i++) {
        struct gpu *board = &script.gpus[i];
        if ((void *)device != (void *)board) continue;
        struct gpu *instance = instance_by_id(board, id, clock_now_ns());
        nvmlReturn_t result = enter_gpu(function, instance == NULL ? board : instance, true, call);
        if (result != NVML_SUCCESS) return result;
        call->gpu = instance_by_id(board, id, call->now_ns);
        return call->gpu == NULL ? NVML_ERROR_INVALID_ARGUMENT : NVML_SUCCESS;
    }
    return enter_gpu(function, NULL, false, call);
}

nvmlReturn_t enter_index(enum function function, unsigned int index, struct call *call)
{
    bool valid = index < script.gpu_count;
    return enter_gpu(function, valid ? &script.gpus[index] : NULL, valid, call);
}

nvmlReturn_t field_rule(const struct gpu *gpu, unsigned int field, int64_t at_ns)
{
    for (size_t i = 0; i < script.rules.count; i++) {
        const struct rule *rule = &script.rules.items[i];
        if (rule->kind == RULE_FIELD && rule->field == field &&
            matches(rule, CALL_nvmlDeviceGetFieldValues, gpu, at_ns))
            return rule->code;
    }
    return NVML_SUCCESS;
}

nvmlReturn_t copy_text(const char *text, char *out, unsigned int length)
{
    REQUIRE(out != NULL);
    if (strcmp(text, "-") == 0) return NVML_ERROR_NOT_SUPPORTED;
    if (strlen(text) + 1 > length) return NVML_ERROR_INSUFFICIENT_SIZE;
    memcpy(out, text, strlen(text) + 1);
    return NVML_SUCCESS;
}

int function_by_name(const char *name)
{
    if (strcmp(name, "*") == 0) return ANY;
    for (int i = 0; i < FUNCTION_COUNT; i++)
        if (strcmp(name, function_names[i]) == 0) return i;
    return -2;
}

uint64_t gpuledger_abi_calls(const char *function)
{
    int index = function_by_name(function);
    return index < 0 ? 0 : calls[index];
}

/* At exit: how often each function was called, one "function count" a line. */
__attribute__((destructor)) static void write_stats(void)
{
    if (trace != NULL) fclose(trace);
    const char *path = getenv("GPULEDGER_ABI_STATS");
    if (path == NULL || *path == '\0') return;
    FILE *file = fopen(path, "we");
    if (file == NULL) return;
    for (int i = 0; i < FUNCTION_COUNT; i++)
        if (calls[i] > 0) fprintf(file, "%s %" PRIu64 "\n", function_names[i], calls[i]);
    fclose(file);
}
