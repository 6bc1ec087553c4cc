/* SPDX-License-Identifier: Apache-2.0
 *
 * The three process lists: a sizing call with no room answers INSUFFICIENT_SIZE and the number.
 * A board's lists have its instances' processes too; a MIG device's only its own.
 */
#include "abi.h"

struct room {
    unsigned int size, found;
    nvmlProcessInfo_t *infos;
};

static void add(const struct call *call, const struct gpu *gpu, enum function which, struct room *room)
{
    bool divided = gpu->board != NULL;
    for (size_t i = 0; i < gpu->processes.count; i++) {
        const struct process *process = &gpu->processes.items[i];
        unsigned int instance = divided ? gpu->id : NO_INSTANCE;
        unsigned int compute = divided ? process->compute_instance : NO_INSTANCE;
        if (process->list != which || call->now_ns < process->from_ns || call->now_ns >= process->to_ns) continue;
        if (call->device != NULL && call->device->compute_instance != compute) continue;
        if (room->found < room->size)
            room->infos[room->found] = (nvmlProcessInfo_t){process->pid, process->memory_bytes, instance, compute};
        room->found++;
    }
}

static nvmlReturn_t list(const struct call *call, enum function which, unsigned int *count, nvmlProcessInfo_t *infos)
{
    REQUIRE(count != NULL);
    struct room room = {infos == NULL ? 0 : *count, 0, infos};
    add(call, call->gpu, which, &room);
    for (size_t i = 0; i < call->gpu->instances.count; i++) {
        const struct gpu *instance = call->gpu->instances.items[i];
        if (instance_by_id(call->gpu, instance->id, call->now_ns) == instance) add(call, instance, which, &room);
    }
    *count = room.found;
    return room.found > room.size ? NVML_ERROR_INSUFFICIENT_SIZE : NVML_SUCCESS;
}

#define PROCESS_LIST(name) \
    nvmlReturn_t name(nvmlDevice_t device, unsigned int *count, nvmlProcessInfo_t *infos) \
    { \
        BEGIN_ANY(name, device); \
        return list(&call, CALL_##name, count, infos); \
    }

PROCESS_LIST(nvmlDeviceGetComputeRunningProcesses_v3)
PROCESS_LIST(nvmlDeviceGetGraphicsRunningProcesses_v3)
PROCESS_LIST(nvmlDeviceGetMPSComputeRunningProcesses_v3)
