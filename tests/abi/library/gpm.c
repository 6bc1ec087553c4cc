/* SPDX-License-Identifier: Apache-2.0
 *
 * GPU performance monitoring: a sample holds every integral, two samples give exact means. Of a GPU instance it knows
 * the id only: two of different instances with one id are subtracted like any others, and what comes out is nonsense.
 */
#include "abi.h"

#include <math.h>
#include <stdlib.h>

#define MIB (1024.0 * 1024.0)

struct metric {
    unsigned int id;
    enum track_id track;
    double scale; /* track units to the metric's units */
    char *short_name, *unit;
};

static const struct metric metrics[] = {
    {NVML_GPM_METRIC_GRAPHICS_UTIL, TRACK_graphics, 1e-4, "gract", "%"},
    {NVML_GPM_METRIC_SM_UTIL, TRACK_sm, 1e-4, "smutil", "%"},
    {NVML_GPM_METRIC_SM_OCCUPANCY, TRACK_sm_occupancy, 1e-4, "smocc", "%"},
    {NVML_GPM_METRIC_ANY_TENSOR_UTIL, TRACK_tensor, 1e-4, "tensor", "%"},
    {NVML_GPM_METRIC_DRAM_BW_UTIL, TRACK_dram, 1e-4, "dram", "%"},
    {NVML_GPM_METRIC_PCIE_TX_PER_SEC, TRACK_pcie_tx_bytes, 1 / MIB, "pcitx", "MiB/s"},
    {NVML_GPM_METRIC_PCIE_RX_PER_SEC, TRACK_pcie_rx_bytes, 1 / MIB, "pcirx", "MiB/s"},
    {NVML_GPM_METRIC_NVLINK_TOTAL_RX_PER_SEC, TRACK_nvlink_rx_bytes, 1 / MIB, "nvlrx", "MiB/s"},
    {NVML_GPM_METRIC_NVLINK_TOTAL_TX_PER_SEC, TRACK_nvlink_tx_bytes, 1 / MIB, "nvltx", "MiB/s"},
};

struct nvmlGpmSample_st {
    const struct gpu *gpu; /* NULL: nothing read yet */
    int64_t at_ns;
};

nvmlReturn_t nvmlGpmQueryDeviceSupport(nvmlDevice_t device, nvmlGpmSupport_t *support)
{
    BEGIN_ANY(nvmlGpmQueryDeviceSupport, device);
    REQUIRE(support != NULL);
    if (support->version != NVML_GPM_SUPPORT_VERSION) return NVML_ERROR_ARGUMENT_VERSION_MISMATCH;
    support->isSupportedDevice = (call.gpu->board == NULL ? call.gpu : call.gpu->board)->gpm;
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlGpmSampleAlloc(nvmlGpmSample_t *sample)
{
    BEGIN(nvmlGpmSampleAlloc);
    REQUIRE(sample != NULL);
    *sample = calloc(1, sizeof **sample);
    return *sample == NULL ? NVML_ERROR_MEMORY : NVML_SUCCESS;
}

nvmlReturn_t nvmlGpmSampleFree(nvmlGpmSample_t sample)
{
    BEGIN(nvmlGpmSampleFree);
    REQUIRE(sample != NULL);
    free(sample);
    return NVML_SUCCESS;
}

static nvmlReturn_t take(const struct call *call, nvmlGpmSample_t sample)
{
    REQUIRE(sample != NULL);
    if ((call->gpu->board == NULL ? call->gpu : call->gpu->board)->gpm == 0) return NVML_ERROR_NOT_SUPPORTED;
    sample->gpu = call->gpu;
    sample->at_ns = call->now_ns;
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlGpmSampleGet(nvmlDevice_t device, nvmlGpmSample_t sample)
{
    BEGIN_ANY(nvmlGpmSampleGet, device);
    bool divided = call.gpu->board == NULL && mig_enabled(call.gpu, call.now_ns);
    if (divided && script.mig_parent_gpm == 0) return NVML_ERROR_NOT_SUPPORTED;
    return take(&call, sample);
}

nvmlReturn_t nvmlGpmMigSampleGet(nvmlDevice_t device, unsigned int id, nvmlGpmSample_t sample)
{
    struct call call;
    nvmlReturn_t entry = enter_instance(CALL_nvmlGpmMigSampleGet, device, id, &call);
    return entry == NVML_SUCCESS ? take(&call, sample) : entry;
}

static bool same_place(const struct gpu *one, const struct gpu *other)
{
    return one == other || (one->board != NULL && one->board == other->board && one->id == other->id);
}

/* Unscripted graphics activity follows utilisation; any other unscripted metric is not there. */
static nvmlReturn_t mean(const struct metric *metric, const struct nvmlGpmSample_st *first,
                         const struct nvmlGpmSample_st *second, double *value)
{
    const struct gpu *gpu = second->gpu;
    enum track_id id = metric->track;
    if (id == TRACK_graphics && !track_scripted(gpu, id)) id = TRACK_utilization;
    if (!track_scripted(gpu, id)) return NVML_ERROR_NOT_SUPPORTED;
    int64_t now;
    nvmlReturn_t result = track_value(gpu, id, second->at_ns, &now);
    if (result != NVML_SUCCESS) return result;
    int64_t elapsed_ns = second->at_ns - first->at_ns;
    bool whole = track_span(&gpu->tracks[id], second->at_ns)->run_from_ns <= first->at_ns;
    if (elapsed_ns < script.gpm_refresh_ns || !whole) {
        *value = NAN;
        return NVML_SUCCESS;
    }
    wide_t sum = track_integral(gpu, id, second->at_ns) - track_integral(first->gpu, id, first->at_ns);
    *value = (double)sum / (double)elapsed_ns * metric->scale;
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlGpmMetricsGet(nvmlGpmMetricsGet_t *get)
{
    BEGIN(nvmlGpmMetricsGet);
    REQUIRE(get != NULL && get->sample1 != NULL && get->sample2 != NULL);
    REQUIRE(get->numMetrics > 0 && get->numMetrics <= NVML_GPM_METRIC_MAX);
    if (get->version != NVML_GPM_METRICS_GET_VERSION) return NVML_ERROR_ARGUMENT_VERSION_MISMATCH;
    REQUIRE(get->sample1->gpu != NULL && get->sample2->gpu != NULL);
    REQUIRE(same_place(get->sample1->gpu, get->sample2->gpu));
    for (unsigned int i = 0; i < get->numMetrics; i++) {
        nvmlGpmMetric_t *entry = &get->metrics[i];
        entry->nvmlReturn = NVML_ERROR_NOT_SUPPORTED;
        for (size_t m = 0; m < sizeof metrics / sizeof *metrics; m++) {
            if (metrics[m].id != entry->metricId) continue;
            entry->metricInfo.shortName = entry->metricInfo.longName = metrics[m].short_name;
            entry->metricInfo.unit = metrics[m].unit;
            entry->nvmlReturn = mean(&metrics[m], get->sample1, get->sample2, &entry->value);
        }
    }
    return NVML_SUCCESS;
}
