/* SPDX-License-Identifier: Apache-2.0
 *
 * The three process lists: a sizing call with no room answers INSUFFICIENT_SIZE and the number.
 */
#include "abi.h"

static nvmlReturn_t list(const struct call *call, enum function which, unsigned int *count, nvmlProcessInfo_t *infos)
{
    REQUIRE(count != NULL);
    unsigned int room = infos == NULL ? 0 : *count, found = 0;
    for (size_t i = 0; i < call->gpu->processes.count; i++) {
        const struct process *process = &call->gpu->processes.items[i];
        if (process->list != which || call->now_ns < process->from_ns || call->now_ns >= process->to_ns) continue;
        if (found < room)
            infos[found] = (nvmlProcessInfo_t){process->pid, process->memory_bytes, NO_INSTANCE, NO_INSTANCE};
        found++;
    }
    *count = found;
    return found > room ? NVML_ERROR_INSUFFICIENT_SIZE : NVML_SUCCESS;
}

#define PROCESS_LIST(name) \
    nvmlReturn_t name(nvmlDevice_t device, unsigned int *count, nvmlProcessInfo_t *infos) \
    { \
        BEGIN_DEVICE(name, device); \
        return list(&call, CALL_##name, count, infos); \
    }

PROCESS_LIST(nvmlDeviceGetComputeRunningProcesses_v3)
PROCESS_LIST(nvmlDeviceGetGraphicsRunningProcesses_v3)
PROCESS_LIST(nvmlDeviceGetMPSComputeRunningProcesses_v3)
