/* SPDX-License-Identifier: Apache-2.0
 *
 * What a GPU is: names, numbers, places, limits. None of it varies over time.
 */
#include "abi.h"

#include <stdio.h>
#include <string.h>

#define TEXT_GETTER(name, member) \
    nvmlReturn_t name(nvmlDevice_t device, char *out, unsigned int length) \
    { \
        BEGIN_DEVICE(name, device); \
        return copy_text(call.gpu->member, out, length); \
    }

#define NUMBER_GETTER(name, member) \
    nvmlReturn_t name(nvmlDevice_t device, unsigned int *out) \
    { \
        BEGIN_DEVICE(name, device); \
        REQUIRE(out != NULL); \
        *out = call.gpu->member; \
        return NVML_SUCCESS; \
    }

nvmlReturn_t nvmlDeviceGetUUID(nvmlDevice_t device, char *out, unsigned int length)
{
    BEGIN_ANY(nvmlDeviceGetUUID, device);
    return copy_text(call.device == NULL ? call.gpu->uuid : call.device->uuid, out, length);
}

nvmlReturn_t nvmlDeviceGetName(nvmlDevice_t device, char *out, unsigned int length)
{
    BEGIN_ANY(nvmlDeviceGetName, device);
    if (call.device == NULL) return copy_text(call.gpu->name, out, length);
    char name[sizeof call.gpu->name + sizeof call.gpu->profile + sizeof " MIG "];
    snprintf(name, sizeof name, "%s MIG %s", call.gpu->board->name, call.gpu->profile);
    return copy_text(name, out, length);
}

TEXT_GETTER(nvmlDeviceGetSerial, serial)
TEXT_GETTER(nvmlDeviceGetBoardPartNumber, part)
NUMBER_GETTER(nvmlDeviceGetIndex, index)
NUMBER_GETTER(nvmlDeviceGetMinorNumber, minor)
NUMBER_GETTER(nvmlDeviceGetArchitecture, architecture)
NUMBER_GETTER(nvmlDeviceGetEnforcedPowerLimit, power_limit_mw)
NUMBER_GETTER(nvmlDeviceGetPowerManagementLimit, power_limit_mw)

nvmlReturn_t nvmlDeviceGetCudaComputeCapability(nvmlDevice_t device, int *major, int *minor)
{
    BEGIN_DEVICE(nvmlDeviceGetCudaComputeCapability, device);
    REQUIRE(major != NULL && minor != NULL);
    *major = call.gpu->capability_major;
    *minor = call.gpu->capability_minor;
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetPciInfo_v3(nvmlDevice_t device, nvmlPciInfo_t *pci)
{
    BEGIN_DEVICE(nvmlDeviceGetPciInfo_v3, device);
    REQUIRE(pci != NULL);
    unsigned int domain, bus, slot, function;
    if (sscanf(call.gpu->pci, "%8x:%2x:%2x.%1x", &domain, &bus, &slot, &function) != 4)
        return NVML_ERROR_NOT_SUPPORTED;
    memset(pci, 0, sizeof *pci);
    pci->domain = domain;
    pci->bus = bus;
    pci->device = slot;
    pci->pciDeviceId = call.gpu->pci_device;
    snprintf(pci->busId, sizeof pci->busId, "%08X:%02X:%02X.%X", domain, bus & 0xFF, slot & 0xFF, function & 0xF);
    snprintf(pci->busIdLegacy, sizeof pci->busIdLegacy, "%04X:%02X:%02X.%X", domain & 0xFFFF, bus & 0xFF,
             slot & 0xFF, function & 0xF);
    return NVML_SUCCESS;
}
