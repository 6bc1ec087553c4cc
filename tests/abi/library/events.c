/* SPDX-License-Identifier: Apache-2.0
 *
 * Event sets: a scripted Xid is delivered once to each set registered before it happened.
 */
#include "abi.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#define SUPPORTED_EVENTS \
    (nvmlEventTypeSingleBitEccError | nvmlEventTypeDoubleBitEccError | nvmlEventTypeXidCriticalError)
#define POLL_NS (1 * MS_NS)
/* A waiting thread must not move virtual time, and must not block for ever if nobody does. */
#define VIRTUAL_PATIENCE_NS (50 * MS_NS)

struct nvmlEventSet_st {
    unsigned long long types[MAX_GPUS];
    int64_t delivered_until_ns[MAX_GPUS]; /* registration, then the last Xid handed out */
    size_t same_moment[MAX_GPUS];         /* Xids already handed out at that very moment */
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

nvmlReturn_t nvmlDeviceGetSupportedEventTypes(nvmlDevice_t device, unsigned long long *types)
{
    BEGIN_DEVICE(nvmlDeviceGetSupportedEventTypes, device);
    REQUIRE(types != NULL);
    *types = SUPPORTED_EVENTS;
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlEventSetCreate(nvmlEventSet_t *set)
{
    BEGIN(nvmlEventSetCreate);
    REQUIRE(set != NULL);
    *set = calloc(1, sizeof **set);
    return *set == NULL ? NVML_ERROR_MEMORY : NVML_SUCCESS;
}

nvmlReturn_t nvmlEventSetFree(nvmlEventSet_t set)
{
    BEGIN(nvmlEventSetFree);
    REQUIRE(set != NULL);
    free(set);
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceRegisterEvents(nvmlDevice_t device, unsigned long long types, nvmlEventSet_t set)
{
    BEGIN_DEVICE(nvmlDeviceRegisterEvents, device);
    REQUIRE(set != NULL);
    if ((types & ~SUPPORTED_EVENTS) != 0) return NVML_ERROR_NOT_SUPPORTED;
    pthread_mutex_lock(&lock);
    if (set->types[call.gpu->index] == 0) set->delivered_until_ns[call.gpu->index] = call.now_ns;
    set->types[call.gpu->index] |= types;
    pthread_mutex_unlock(&lock);
    return NVML_SUCCESS;
}

/* The oldest Xid of this GPU that the set has not seen, or NULL. */
static const struct xid *next_xid(nvmlEventSet_t set, const struct gpu *gpu, int64_t now_ns)
{
    int64_t seen_ns = set->delivered_until_ns[gpu->index];
    size_t skip = set->same_moment[gpu->index];
    for (size_t i = 0; i < gpu->xids.count; i++) {
        const struct xid *xid = &gpu->xids.items[i];
        if (xid->at_ns < seen_ns || xid->at_ns > now_ns) continue;
        if (xid->at_ns == seen_ns && skip > 0) {
            skip--;
            continue;
        }
        return xid;
    }
    return NULL;
}

static bool deliver(nvmlEventSet_t set, nvmlEventData_t *data, int64_t now_ns)
{
    bool found = false;
    pthread_mutex_lock(&lock);
    for (unsigned int g = 0; g < script.gpu_count && !found; g++) {
        struct gpu *gpu = &script.gpus[g];
        if ((set->types[g] & nvmlEventTypeXidCriticalError) == 0) continue;
        const struct xid *xid = next_xid(set, gpu, now_ns);
        if (xid == NULL) continue;
        set->same_moment[g] = xid->at_ns == set->delivered_until_ns[g] ? set->same_moment[g] + 1 : 1;
        set->delivered_until_ns[g] = xid->at_ns;
        memset(data, 0, sizeof *data);
        data->device = (nvmlDevice_t)(void *)gpu;
        data->eventType = nvmlEventTypeXidCriticalError;
        data->eventData = xid->code;
        data->gpuInstanceId = xid->instance;
        data->computeInstanceId = xid->instance == NO_INSTANCE ? NO_INSTANCE : 0;
        found = true;
    }
    pthread_mutex_unlock(&lock);
    return found;
}

/* The GPU of a set that has only one, so that rules about it meet the wait; else NULL. */
static struct gpu *only_gpu(nvmlEventSet_t set)
{
    struct gpu *found = NULL;
    for (unsigned int g = 0; g < script.gpu_count; g++) {
        if (set->types[g] == 0) continue;
        if (found != NULL) return NULL;
        found = &script.gpus[g];
    }
    return found;
}

/* A wait for a set with a lost GPU in it fails at once, for as long as the GPU is lost. */
static nvmlReturn_t lost(nvmlEventSet_t set, int64_t now_ns)
{
    for (unsigned int g = 0; g < script.gpu_count; g++) {
        nvmlReturn_t code = set->types[g] == 0 ? NVML_SUCCESS : outage_now(&script.gpus[g], now_ns);
        if (code != NVML_SUCCESS) return code;
    }
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlEventSetWait_v2(nvmlEventSet_t set, nvmlEventData_t *data, unsigned int timeout_ms)
{
    struct call call;
    nvmlReturn_t entry = enter_set(CALL_nvmlEventSetWait_v2, set == NULL ? NULL : only_gpu(set), &call);
    if (entry != NVML_SUCCESS) return entry;
    REQUIRE(set != NULL && data != NULL);
    int64_t until_ns = call.now_ns + timeout_ms * MS_NS, waited_ns = 0;
    for (;;) {
        int64_t now_ns = clock_now_ns();
        if (deliver(set, data, now_ns)) return NVML_SUCCESS;
        nvmlReturn_t code = lost(set, now_ns);
        if (code != NVML_SUCCESS) return code;
        if (now_ns >= until_ns) return NVML_ERROR_TIMEOUT;
        if (clock_is_virtual() && waited_ns >= VIRTUAL_PATIENCE_NS) return NVML_ERROR_TIMEOUT;
        sleep_real(POLL_NS);
        waited_ns += POLL_NS;
    }
}
