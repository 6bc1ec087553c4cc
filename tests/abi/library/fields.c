/* SPDX-License-Identifier: Apache-2.0
 *
 * nvmlDeviceGetFieldValues: each entry has its own answer and its own error.
 */
#include "abi.h"

#include <malloc.h>
#include <string.h>

struct field {
    unsigned int id;
    nvmlValueType_t type;
    enum track_id track;
    enum { FIELD_VALUE, FIELD_ENERGY, FIELD_MEAN_POWER, FIELD_LIMIT, FIELD_TIME } kind;
};

static const struct field fields[] = {
    {NVML_FI_DEV_ECC_SBE_VOL_TOTAL, NVML_VALUE_TYPE_UNSIGNED_LONG_LONG, TRACK_ecc_corrected, FIELD_VALUE},
    {NVML_FI_DEV_ECC_DBE_VOL_TOTAL, NVML_VALUE_TYPE_UNSIGNED_LONG_LONG, TRACK_ecc_uncorrected, FIELD_VALUE},
    {NVML_FI_DEV_MEMORY_TEMP, NVML_VALUE_TYPE_UNSIGNED_INT, TRACK_memory_temperature_c, FIELD_VALUE},
    {NVML_FI_DEV_TOTAL_ENERGY_CONSUMPTION, NVML_VALUE_TYPE_UNSIGNED_LONG_LONG, TRACK_power_mw, FIELD_ENERGY},
    {NVML_FI_DEV_ENERGY, NVML_VALUE_TYPE_UNSIGNED_LONG_LONG, TRACK_power_mw, FIELD_ENERGY},
    {NVML_FI_DEV_POWER_AVERAGE, NVML_VALUE_TYPE_UNSIGNED_INT, TRACK_power_mw, FIELD_MEAN_POWER},
    {NVML_FI_DEV_POWER_INSTANT, NVML_VALUE_TYPE_UNSIGNED_INT, TRACK_power_mw, FIELD_VALUE},
    {NVML_FI_DEV_POWER_CURRENT_LIMIT, NVML_VALUE_TYPE_UNSIGNED_INT, TRACK_power_mw, FIELD_LIMIT},
    {NVML_FI_DEV_CLOCKS_EVENT_REASON_SW_POWER_CAP, NVML_VALUE_TYPE_UNSIGNED_LONG_LONG, TRACK_throttle_power, FIELD_TIME},
    {NVML_FI_DEV_CLOCKS_EVENT_REASON_SW_THERM_SLOWDOWN, NVML_VALUE_TYPE_UNSIGNED_LONG_LONG, TRACK_throttle_thermal, FIELD_TIME},
    {NVML_FI_DEV_CLOCKS_EVENT_REASON_HW_THERM_SLOWDOWN, NVML_VALUE_TYPE_UNSIGNED_LONG_LONG, TRACK_throttle_hw_thermal, FIELD_TIME},
    {NVML_FI_DEV_CLOCKS_EVENT_REASON_HW_POWER_BRAKE_SLOWDOWN, NVML_VALUE_TYPE_UNSIGNED_LONG_LONG, TRACK_throttle_brake, FIELD_TIME},
    {NVML_FI_DEV_REMAPPED_COR, NVML_VALUE_TYPE_UNSIGNED_INT, TRACK_remap_corrected, FIELD_VALUE},
    {NVML_FI_DEV_REMAPPED_UNC, NVML_VALUE_TYPE_UNSIGNED_INT, TRACK_remap_uncorrected, FIELD_VALUE},
    {NVML_FI_DEV_REMAPPED_PENDING, NVML_VALUE_TYPE_UNSIGNED_INT, TRACK_remap_pending, FIELD_VALUE},
    {NVML_FI_DEV_REMAPPED_FAILURE, NVML_VALUE_TYPE_UNSIGNED_INT, TRACK_remap_failure, FIELD_VALUE},
    {NVML_FI_DEV_GET_GPU_RECOVERY_ACTION, NVML_VALUE_TYPE_UNSIGNED_INT, TRACK_recovery_action, FIELD_VALUE},
};

/* When the counters of throttled time last started at 0. */
static int64_t reset_ns(const struct call *call)
{
    int64_t last_ns = 0;
    for (size_t i = 0; i < call->gpu->throttle_resets.count; i++)
        if (call->gpu->throttle_resets.items[i] <= call->now_ns) last_ns = call->gpu->throttle_resets.items[i];
    return last_ns;
}

static nvmlReturn_t read_field(const struct call *call, const struct field *field, unsigned long long *out)
{
    int64_t value = 0;
    nvmlReturn_t result;
    switch (field->kind) {
    case FIELD_ENERGY:
        return energy_mj(call->gpu, call->now_ns, out);
    case FIELD_LIMIT:
        *out = call->gpu->power_limit_mw;
        return NVML_SUCCESS;
    case FIELD_MEAN_POWER:
        result = track_mean(call->gpu, field->track, call->now_ns, SECOND_NS, 1, &value);
        break;
    case FIELD_TIME: /* a share of time integrates to time spent */
        result = track_value(call->gpu, field->track, call->now_ns, &value);
        value = (int64_t)((track_integral(call->gpu, field->track, call->now_ns) -
                           track_integral(call->gpu, field->track, reset_ns(call))) / RATIO_FULL);
        break;
    default:
        result = track_value(call->gpu, field->track, call->now_ns, &value);
    }
    *out = (unsigned long long)value;
    return result;
}

static nvmlReturn_t answer(const struct call *call, nvmlFieldValue_t *entry)
{
    nvmlReturn_t result = field_rule(call->gpu, entry->fieldId, call->now_ns);
    if (result != NVML_SUCCESS) return result;
    for (size_t i = 0; i < sizeof fields / sizeof *fields; i++) {
        if (fields[i].id != entry->fieldId) continue;
        unsigned long long value;
        result = read_field(call, &fields[i], &value);
        if (result != NVML_SUCCESS) return result;
        entry->valueType = fields[i].type;
        if (fields[i].type == NVML_VALUE_TYPE_UNSIGNED_INT)
            entry->value.uiVal = (unsigned int)value;
        else
            entry->value.ullVal = value;
        return NVML_SUCCESS;
    }
    return NVML_ERROR_NOT_SUPPORTED;
}

nvmlReturn_t nvmlDeviceGetFieldValues(nvmlDevice_t device, int count, nvmlFieldValue_t *values)
{
    BEGIN_DEVICE(nvmlDeviceGetFieldValues, device);
    REQUIRE(values != NULL && count > 0);
    /* As a driver has been seen to: one entry too many is touched. PYTHONMALLOC=malloc makes the room measurable. */
    if (script.fields_touched && malloc_usable_size(values) < ((size_t)count + 1) * sizeof *values)
        fail("nvmlDeviceGetFieldValues: no room after the last of %d entries", count);
    long long stamp_us = clock_wall_ns(call.now_ns) / 1000;
    for (int i = 0; i < count; i++) {
        values[i].timestamp = stamp_us;
        values[i].latencyUsec = 0;
        memset(&values[i].value, 0, sizeof values[i].value);
        values[i].nvmlReturn = answer(&call, &values[i]);
    }
    return NVML_SUCCESS;
}
