/* SPDX-License-Identifier: Apache-2.0
 *
 * What other programs ask of a GPU and our agent never does; benchmarks run them beside it (tests/perf).
 */
#include "abi.h"

#include <string.h>

#define PCIE_WINDOW_NS (20 * MS_NS) /* nvml.h: "over a 20ms interval"; the call takes that long */
#define PERCENT (RATIO_FULL / 100)
#define KIB 1024

nvmlReturn_t nvmlDeviceGetPcieThroughput(nvmlDevice_t device, nvmlPcieUtilCounter_t counter, unsigned int *value)
{
    BEGIN_DEVICE(nvmlDeviceGetPcieThroughput, device);
    REQUIRE(value != NULL && counter < NVML_PCIE_UTIL_COUNT);
    enum track_id id = counter == NVML_PCIE_UTIL_TX_BYTES ? TRACK_pcie_tx_bytes : TRACK_pcie_rx_bytes;
    clock_advance(PCIE_WINDOW_NS);
    int64_t mean;
    nvmlReturn_t result = track_mean(call.gpu, id, call.now_ns + PCIE_WINDOW_NS, PCIE_WINDOW_NS, KIB, &mean);
    if (result == NVML_SUCCESS) *value = (unsigned int)mean;
    return result;
}

/* A module without a fan of its own. */
nvmlReturn_t nvmlDeviceGetFanSpeed(nvmlDevice_t device, unsigned int *speed)
{
    BEGIN_DEVICE(nvmlDeviceGetFanSpeed, device);
    (void)speed;
    return NVML_ERROR_NOT_SUPPORTED;
}

#define UNUSED_ENGINE(name) \
    nvmlReturn_t name(nvmlDevice_t device, unsigned int *utilization, unsigned int *period_us) \
    { \
        BEGIN_DEVICE(name, device); \
        REQUIRE(utilization != NULL && period_us != NULL); \
        *utilization = 0; \
        *period_us = (unsigned int)(script.utilization_period_ns / 1000); \
        return NVML_SUCCESS; \
    }

UNUSED_ENGINE(nvmlDeviceGetEncoderUtilization)
UNUSED_ENGINE(nvmlDeviceGetDecoderUtilization)

/* One entry for each process of the compute list, all with an equal part of the GPU's last period. */
nvmlReturn_t nvmlDeviceGetProcessUtilization(nvmlDevice_t device, nvmlProcessUtilizationSample_t *samples,
                                             unsigned int *count, unsigned long long last_seen)
{
    BEGIN_DEVICE(nvmlDeviceGetProcessUtilization, device);
    REQUIRE(count != NULL);
    unsigned long long stamp_us = (unsigned long long)(clock_wall_ns(call.now_ns) / 1000);
    int64_t percent;
    nvmlReturn_t result =
        track_mean(call.gpu, TRACK_utilization, call.now_ns, script.utilization_period_ns, PERCENT, &percent);
    if (result != NVML_SUCCESS) return result;
    unsigned int room = samples == NULL ? 0 : *count, found = 0;
    for (size_t i = 0; i < call.gpu->processes.count; i++) {
        const struct process *process = &call.gpu->processes.items[i];
        bool is_there = process->from_ns <= call.now_ns && call.now_ns < process->to_ns;
        if (process->list != CALL_nvmlDeviceGetComputeRunningProcesses_v3 || !is_there) continue;
        if (found < room) {
            memset(&samples[found], 0, sizeof samples[found]);
            samples[found].pid = process->pid;
            samples[found].timeStamp = stamp_us;
        }
        found++;
    }
    *count = found;
    if (found == 0 || percent == 0 || stamp_us <= last_seen) return NVML_ERROR_NOT_FOUND;
    if (found > room) return NVML_ERROR_INSUFFICIENT_SIZE;
    for (unsigned int i = 0; i < found; i++) samples[i].smUtil = (unsigned int)percent / found;
    return NVML_SUCCESS;
}
