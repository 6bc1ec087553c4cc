/* SPDX-License-Identifier: Apache-2.0
 *
 * Library life cycle, versions, enumeration, handles.
 */
#include "abi.h"

#include <string.h>

static nvmlReturn_t init(enum function function)
{
    struct call call;
    nvmlReturn_t result = enter(function, &call);
    if (result == NVML_SUCCESS) initialised++;
    return result;
}

nvmlReturn_t nvmlInit_v2(void)
{
    return init(CALL_nvmlInit_v2);
}

nvmlReturn_t nvmlInitWithFlags(unsigned int flags)
{
    (void)flags;
    return init(CALL_nvmlInitWithFlags);
}

nvmlReturn_t nvmlShutdown(void)
{
    BEGIN(nvmlShutdown);
    initialised--;
    return NVML_SUCCESS;
}

const char *nvmlErrorString(nvmlReturn_t result)
{
    switch (result) {
    case NVML_SUCCESS: return "Success";
    case NVML_ERROR_UNINITIALIZED: return "Uninitialized";
    case NVML_ERROR_INVALID_ARGUMENT: return "Invalid Argument";
    case NVML_ERROR_NOT_SUPPORTED: return "Not Supported";
    case NVML_ERROR_NO_PERMISSION: return "Insufficient Permissions";
    case NVML_ERROR_NOT_FOUND: return "Not Found";
    case NVML_ERROR_INSUFFICIENT_SIZE: return "Insufficient Size";
    case NVML_ERROR_DRIVER_NOT_LOADED: return "Driver Not Loaded";
    case NVML_ERROR_TIMEOUT: return "Timeout";
    case NVML_ERROR_FUNCTION_NOT_FOUND: return "Function Not Found";
    case NVML_ERROR_GPU_IS_LOST: return "GPU is lost";
    case NVML_ERROR_RESET_REQUIRED: return "GPU requires reset";
    case NVML_ERROR_LIB_RM_VERSION_MISMATCH: return "Driver/library version mismatch";
    case NVML_ERROR_ARGUMENT_VERSION_MISMATCH: return "Version mismatch";
    default: return "Unknown Error";
    }
}

nvmlReturn_t nvmlSystemGetDriverVersion(char *version, unsigned int length)
{
    BEGIN(nvmlSystemGetDriverVersion);
    return copy_text(script.driver, version, length);
}

nvmlReturn_t nvmlSystemGetNVMLVersion(char *version, unsigned int length)
{
    BEGIN(nvmlSystemGetNVMLVersion);
    return copy_text(script.nvml, version, length);
}

nvmlReturn_t nvmlSystemGetCudaDriverVersion_v2(int *version)
{
    BEGIN(nvmlSystemGetCudaDriverVersion_v2);
    REQUIRE(version != NULL);
    *version = script.cuda;
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetCount_v2(unsigned int *count)
{
    BEGIN(nvmlDeviceGetCount_v2);
    REQUIRE(count != NULL);
    *count = script.gpu_count;
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetHandleByIndex_v2(unsigned int index, nvmlDevice_t *device)
{
    struct call call;
    nvmlReturn_t result = enter_index(CALL_nvmlDeviceGetHandleByIndex_v2, index, &call);
    if (result != NVML_SUCCESS) return result;
    REQUIRE(device != NULL);
    *device = (nvmlDevice_t)(void *)call.gpu;
    return NVML_SUCCESS;
}

static nvmlReturn_t mig_by_uuid(const char *uuid, nvmlDevice_t *device)
{
    int64_t now_ns = clock_now_ns();
    for (unsigned int g = 0; g < script.gpu_count; g++)
        for (unsigned int s = 0; s < MAX_SLOTS; s++) {
            struct gpu *instance;
            const struct mig_device *found = device_in_slot(&script.gpus[g].slots[s], now_ns, &instance);
            if (found == NULL || strcmp(found->uuid, uuid) != 0) continue;
            *device = (nvmlDevice_t)(void *)&script.gpus[g].slots[s];
            return NVML_SUCCESS;
        }
    return NVML_ERROR_NOT_FOUND;
}

nvmlReturn_t nvmlDeviceGetHandleByUUID(const char *uuid, nvmlDevice_t *device)
{
    struct call call;
    unsigned int index = 0;
    while (uuid != NULL && index < script.gpu_count && strcmp(uuid, script.gpus[index].uuid) != 0) index++;
    nvmlReturn_t result = enter_index(CALL_nvmlDeviceGetHandleByUUID, index, &call);
    if (result == NVML_ERROR_INVALID_ARGUMENT && uuid != NULL) return device == NULL ? result : mig_by_uuid(uuid, device);
    if (result != NVML_SUCCESS) return result;
    REQUIRE(device != NULL);
    *device = (nvmlDevice_t)(void *)call.gpu;
    return NVML_SUCCESS;
}
