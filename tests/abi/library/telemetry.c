/* SPDX-License-Identifier: Apache-2.0
 *
 * What a GPU does: utilisation, samples, power, energy, memory, clocks, health counters.
 */
#include "abi.h"

#include <string.h>

#define PERCENT (RATIO_FULL / 100)
#define POWER_WINDOW_NS SECOND_NS /* Hopper averages reported power over one second */

/* The moment's value of a track, as an unsigned int. */
static nvmlReturn_t get(const struct call *call, enum track_id id, unsigned int *out)
{
    int64_t value;
    REQUIRE(out != NULL);
    nvmlReturn_t result = track_value(call->gpu, id, call->now_ns, &value);
    if (result == NVML_SUCCESS) *out = (unsigned int)value;
    return result;
}

nvmlReturn_t nvmlDeviceGetUtilizationRates(nvmlDevice_t device, nvmlUtilization_t *utilization)
{
    BEGIN_WHOLE(nvmlDeviceGetUtilizationRates, device);
    REQUIRE(utilization != NULL);
    int64_t gpu, memory, window_ns = script.utilization_period_ns;
    nvmlReturn_t result = track_mean(call.gpu, TRACK_utilization, call.now_ns, window_ns, PERCENT, &gpu);
    if (result != NVML_SUCCESS) return result;
    result = track_mean(call.gpu, TRACK_memory_utilization, call.now_ns, window_ns, PERCENT, &memory);
    if (result != NVML_SUCCESS) return result;
    utilization->gpu = (unsigned int)gpu;
    utilization->memory = (unsigned int)memory;
    return NVML_SUCCESS;
}

/* The sample ring: sample k covers the k-th period of 1/samples_hz and is stamped at its end. */
nvmlReturn_t nvmlDeviceGetSamples(nvmlDevice_t device, nvmlSamplingType_t type, unsigned long long last_seen,
                                  nvmlValueType_t *value_type, unsigned int *count, nvmlSample_t *samples)
{
    BEGIN_DEVICE(nvmlDeviceGetSamples, device);
    REQUIRE(value_type != NULL && count != NULL);
    enum track_id id;
    if (type == NVML_TOTAL_POWER_SAMPLES) id = TRACK_power_mw;
    else if (type == NVML_GPU_UTILIZATION_SAMPLES) id = TRACK_utilization;
    else if (type == NVML_MEMORY_UTILIZATION_SAMPLES) id = TRACK_memory_utilization;
    else return NVML_ERROR_NOT_SUPPORTED;
    if (id != TRACK_power_mw && mig_enabled(call.gpu, call.now_ns)) return NVML_ERROR_NOT_SUPPORTED;
    int64_t value, hz = script.samples_hz, unit = id == TRACK_power_mw ? 1 : PERCENT;
    nvmlReturn_t result = track_value(call.gpu, id, call.now_ns, &value);
    if (result != NVML_SUCCESS) return result;

    *value_type = NVML_VALUE_TYPE_UNSIGNED_INT;
    unsigned int room = samples == NULL ? 0 : *count, found = 0;
    int64_t last = (int64_t)((wide_t)call.now_ns * hz / SECOND_NS);
    int64_t first = last - (int64_t)script.samples_ring + 1;
    for (int64_t k = first < 1 ? 1 : first; k <= last; k++) {
        int64_t begin_ns = (int64_t)((wide_t)(k - 1) * SECOND_NS / hz);
        int64_t end_ns = (int64_t)((wide_t)k * SECOND_NS / hz);
        unsigned long long stamp_us = (unsigned long long)(clock_wall_ns(end_ns) / 1000);
        if (stamp_us <= last_seen) continue;
        if (track_mean(call.gpu, id, end_ns, end_ns - begin_ns, unit, &value) != NVML_SUCCESS) continue;
        if (found < room) {
            memset(&samples[found], 0, sizeof samples[found]);
            samples[found].timeStamp = stamp_us;
            samples[found].sampleValue.uiVal = (unsigned int)value;
        }
        found++;
    }
    if (found == 0) return NVML_ERROR_NOT_FOUND;
    if (samples == NULL) {
        *count = script.samples_ring; /* the sizing call answers capacity */
        return NVML_SUCCESS;
    }
    if (found > room) return NVML_ERROR_INSUFFICIENT_SIZE;
    *count = found;
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetMemoryInfo(nvmlDevice_t device, nvmlMemory_t *memory)
{
    BEGIN_ANY(nvmlDeviceGetMemoryInfo, device);
    REQUIRE(memory != NULL);
    int64_t used;
    nvmlReturn_t result = memory_used(call.gpu, call.now_ns, &used);
    if (result != NVML_SUCCESS) return result;
    memory->total = call.gpu->memory_total_bytes;
    memory->used = (unsigned long long)used + call.gpu->memory_reserved_bytes;
    memory->free = memory->total - memory->used;
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetMemoryInfo_v2(nvmlDevice_t device, nvmlMemory_v2_t *memory)
{
    BEGIN_ANY(nvmlDeviceGetMemoryInfo_v2, device);
    REQUIRE(memory != NULL);
    if (memory->version != nvmlMemory_v2) return NVML_ERROR_ARGUMENT_VERSION_MISMATCH;
    int64_t used;
    nvmlReturn_t result = memory_used(call.gpu, call.now_ns, &used);
    if (result != NVML_SUCCESS) return result;
    memory->total = call.gpu->memory_total_bytes;
    memory->reserved = call.gpu->memory_reserved_bytes;
    memory->used = (unsigned long long)used;
    memory->free = memory->total - memory->reserved - memory->used;
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetTotalEnergyConsumption(nvmlDevice_t device, unsigned long long *energy)
{
    BEGIN_DEVICE(nvmlDeviceGetTotalEnergyConsumption, device);
    REQUIRE(energy != NULL);
    return energy_mj(call.gpu, call.now_ns, energy);
}

nvmlReturn_t nvmlDeviceGetPowerUsage(nvmlDevice_t device, unsigned int *power)
{
    BEGIN_DEVICE(nvmlDeviceGetPowerUsage, device);
    REQUIRE(power != NULL);
    int64_t mean_mw;
    nvmlReturn_t result = track_mean(call.gpu, TRACK_power_mw, call.now_ns, POWER_WINDOW_NS, 1, &mean_mw);
    if (result == NVML_SUCCESS) *power = (unsigned int)mean_mw;
    return result;
}

nvmlReturn_t nvmlDeviceGetTemperature(nvmlDevice_t device, nvmlTemperatureSensors_t sensor, unsigned int *temperature)
{
    BEGIN_DEVICE(nvmlDeviceGetTemperature, device);
    REQUIRE(sensor == NVML_TEMPERATURE_GPU);
    return get(&call, TRACK_temperature_c, temperature);
}

nvmlReturn_t nvmlDeviceGetClockInfo(nvmlDevice_t device, nvmlClockType_t type, unsigned int *clock)
{
    BEGIN_DEVICE(nvmlDeviceGetClockInfo, device);
    if (type == NVML_CLOCK_VIDEO) return NVML_ERROR_NOT_SUPPORTED;
    REQUIRE(type == NVML_CLOCK_SM || type == NVML_CLOCK_GRAPHICS || type == NVML_CLOCK_MEM);
    return get(&call, type == NVML_CLOCK_MEM ? TRACK_memory_clock_mhz : TRACK_sm_clock_mhz, clock);
}

nvmlReturn_t nvmlDeviceGetCurrentClocksEventReasons(nvmlDevice_t device, unsigned long long *reasons)
{
    BEGIN_DEVICE(nvmlDeviceGetCurrentClocksEventReasons, device);
    REQUIRE(reasons != NULL);
    int64_t bits;
    nvmlReturn_t result = track_value(call.gpu, TRACK_clock_reasons, call.now_ns, &bits);
    if (result == NVML_SUCCESS) *reasons = (unsigned long long)bits;
    return result;
}

nvmlReturn_t nvmlDeviceGetPerformanceState(nvmlDevice_t device, nvmlPstates_t *state)
{
    BEGIN_DEVICE(nvmlDeviceGetPerformanceState, device);
    REQUIRE(state != NULL);
    unsigned int value = 0;
    nvmlReturn_t result = get(&call, TRACK_performance_state, &value);
    if (result == NVML_SUCCESS) *state = (nvmlPstates_t)value;
    return result;
}

nvmlReturn_t nvmlDeviceGetAccountingMode(nvmlDevice_t device, nvmlEnableState_t *mode)
{
    BEGIN_WHOLE(nvmlDeviceGetAccountingMode, device);
    REQUIRE(mode != NULL);
    unsigned int value = 0;
    nvmlReturn_t result = get(&call, TRACK_accounting_mode, &value);
    if (result == NVML_SUCCESS) *mode = (nvmlEnableState_t)value;
    return result;
}

nvmlReturn_t nvmlDeviceGetRemappedRows(nvmlDevice_t device, unsigned int *corrected, unsigned int *uncorrected,
                                       unsigned int *pending, unsigned int *failure)
{
    BEGIN_WHOLE(nvmlDeviceGetRemappedRows, device);
    unsigned int *const out[4] = {corrected, uncorrected, pending, failure};
    const enum track_id ids[4] = {TRACK_remap_corrected, TRACK_remap_uncorrected, TRACK_remap_pending,
                                  TRACK_remap_failure};
    for (int i = 0; i < 4; i++) {
        nvmlReturn_t result = get(&call, ids[i], out[i]);
        if (result != NVML_SUCCESS) return result;
    }
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetTotalEccErrors(nvmlDevice_t device, nvmlMemoryErrorType_t error, nvmlEccCounterType_t counter,
                                         unsigned long long *errors)
{
    BEGIN_DEVICE(nvmlDeviceGetTotalEccErrors, device);
    REQUIRE(errors != NULL && (unsigned int)counter < NVML_ECC_COUNTER_TYPE_COUNT);
    unsigned int value = 0;
    bool corrected = error == NVML_MEMORY_ERROR_TYPE_CORRECTED;
    nvmlReturn_t result = get(&call, corrected ? TRACK_ecc_corrected : TRACK_ecc_uncorrected, &value);
    if (result == NVML_SUCCESS) *errors = value;
    return result;
}
