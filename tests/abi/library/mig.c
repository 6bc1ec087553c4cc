/* SPDX-License-Identifier: Apache-2.0
 *
 * MIG: a GPU's mode, its GPU instances, and their compute instances, which NVML calls MIG devices.
 */
#include "abi.h"

#include <string.h>

#define MIB (1024ULL * 1024ULL)
#define MULTIPROCESSORS_PER_SLICE 16

static const struct mig_mode *mode_at(const struct gpu *board, int64_t at_ns)
{
    const struct mig_mode *found = NULL;
    for (size_t i = 0; i < board->mig_modes.count; i++)
        if (board->mig_modes.items[i].from_ns <= at_ns) found = &board->mig_modes.items[i];
    return found;
}

bool mig_enabled(const struct gpu *board, int64_t at_ns)
{
    const struct mig_mode *mode = mode_at(board, at_ns);
    return mode != NULL && mode->current == NVML_DEVICE_MIG_ENABLE;
}

struct gpu *instance_by_id(const struct gpu *board, unsigned int id, int64_t at_ns)
{
    if (!mig_enabled(board, at_ns)) return NULL;
    for (size_t i = 0; i < board->instances.count; i++) {
        struct gpu *instance = board->instances.items[i];
        if (instance->id == id && instance->from_ns <= at_ns && at_ns < instance->to_ns) return instance;
    }
    return NULL;
}

/* The device whose slot it is, or was last: `ended` says which. */
static const struct mig_device *last_in_slot(const struct slot *slot, int64_t at_ns, struct gpu **instance, bool *ended)
{
    const struct mig_device *found = NULL;
    for (size_t i = 0; i < slot->board->instances.count; i++) {
        struct gpu *candidate = slot->board->instances.items[i];
        for (size_t d = 0; d < candidate->devices.count; d++) {
            const struct mig_device *device = &candidate->devices.items[d];
            if (device->slot != slot->index || device->from_ns > at_ns) continue;
            if (found != NULL && found->from_ns > device->from_ns) continue;
            found = device;
            *instance = candidate;
            *ended = at_ns >= device->to_ns || at_ns >= candidate->to_ns || !mig_enabled(slot->board, at_ns);
        }
    }
    return found;
}

const struct mig_device *device_in_slot(const struct slot *slot, int64_t at_ns, struct gpu **instance)
{
    bool ended = true;
    const struct mig_device *device = last_in_slot(slot, at_ns, instance, &ended);
    return ended ? NULL : device;
}

/* A board's memory is that of its instances too. */
nvmlReturn_t memory_used(const struct gpu *gpu, int64_t at_ns, int64_t *used)
{
    nvmlReturn_t result = track_value(gpu, TRACK_memory_used_bytes, at_ns, used);
    if (result != NVML_SUCCESS || gpu->board != NULL || !mig_enabled(gpu, at_ns)) return result;
    for (size_t i = 0; i < gpu->instances.count; i++) {
        const struct gpu *instance = gpu->instances.items[i];
        int64_t part;
        if (instance->from_ns > at_ns || at_ns >= instance->to_ns) continue;
        if (track_value(instance, TRACK_memory_used_bytes, at_ns, &part) == NVML_SUCCESS) *used += part;
    }
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetMigMode(nvmlDevice_t device, unsigned int *current, unsigned int *pending)
{
    BEGIN_DEVICE(nvmlDeviceGetMigMode, device);
    REQUIRE(current != NULL && pending != NULL);
    if (call.gpu->mig_supported == 0) return NVML_ERROR_NOT_SUPPORTED;
    const struct mig_mode *mode = mode_at(call.gpu, call.now_ns);
    *current = mode == NULL ? NVML_DEVICE_MIG_DISABLE : mode->current;
    *pending = mode == NULL ? NVML_DEVICE_MIG_DISABLE : mode->pending;
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetMaxMigDeviceCount(nvmlDevice_t device, unsigned int *count)
{
    BEGIN_DEVICE(nvmlDeviceGetMaxMigDeviceCount, device);
    REQUIRE(count != NULL);
    *count = mig_enabled(call.gpu, call.now_ns) ? MAX_SLOTS : 0;
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetMigDeviceHandleByIndex(nvmlDevice_t device, unsigned int index, nvmlDevice_t *instance)
{
    BEGIN_DEVICE(nvmlDeviceGetMigDeviceHandleByIndex, device);
    REQUIRE(instance != NULL && index < MAX_SLOTS);
    struct slot *slot = &call.gpu->slots[index];
    struct gpu *owner;
    bool ended = true;
    const struct mig_device *found = last_in_slot(slot, call.now_ns, &owner, &ended);
    if (found == NULL || (ended && !found->ghost)) return NVML_ERROR_NOT_FOUND;
    *instance = (nvmlDevice_t)(void *)slot;
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceIsMigDeviceHandle(nvmlDevice_t device, unsigned int *is_mig)
{
    BEGIN_ANY(nvmlDeviceIsMigDeviceHandle, device);
    REQUIRE(is_mig != NULL);
    *is_mig = call.device != NULL;
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetDeviceHandleFromMigDeviceHandle(nvmlDevice_t device, nvmlDevice_t *board)
{
    BEGIN_ANY(nvmlDeviceGetDeviceHandleFromMigDeviceHandle, device);
    REQUIRE(board != NULL && call.device != NULL);
    *board = (nvmlDevice_t)(void *)call.gpu->board;
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetGpuInstanceId(nvmlDevice_t device, unsigned int *id)
{
    BEGIN_ANY(nvmlDeviceGetGpuInstanceId, device);
    REQUIRE(id != NULL);
    if (call.device == NULL) return NVML_ERROR_NOT_SUPPORTED;
    *id = call.gpu->id;
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetComputeInstanceId(nvmlDevice_t device, unsigned int *id)
{
    BEGIN_ANY(nvmlDeviceGetComputeInstanceId, device);
    REQUIRE(id != NULL);
    if (call.device == NULL) return NVML_ERROR_NOT_SUPPORTED;
    *id = call.device->compute_instance;
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetAttributes_v2(nvmlDevice_t device, nvmlDeviceAttributes_t *attributes)
{
    BEGIN_ANY(nvmlDeviceGetAttributes_v2, device);
    REQUIRE(attributes != NULL);
    if (call.device == NULL) return NVML_ERROR_NOT_SUPPORTED;
    memset(attributes, 0, sizeof *attributes);
    attributes->multiprocessorCount = MULTIPROCESSORS_PER_SLICE * call.gpu->slices;
    attributes->gpuInstanceSliceCount = attributes->computeInstanceSliceCount = call.gpu->slices;
    attributes->memorySizeMB = call.gpu->memory_total_bytes / MIB;
    return NVML_SUCCESS;
}
