/* SPDX-License-Identifier: Apache-2.0
 *
 * Values, exact integrals and means of scripted quantities. All arithmetic is in integers, so
 * an energy counter or a duty cycle has no drift however long the script.
 */
#include "abi.h"

static const int64_t initial_values[TRACK_COUNT] = {
#define VALUE_ENTRY(name, initial) [TRACK_##name] = initial,
    TRACKS(VALUE_ENTRY)
#undef VALUE_ENTRY
};

/* Integral of a signal from script start to at_ns (either sign), as if it had always held. */
static wide_t signal_integral(const struct signal *signal, int64_t at_ns)
{
    if (signal->kind == SIGNAL_ERROR) return 0;
    if (signal->kind == SIGNAL_CONSTANT) return (wide_t)signal->high * at_ns;
    wide_t sum[2];
    int64_t points[2] = {at_ns, 0};
    for (int i = 0; i < 2; i++) {
        int64_t since = points[i] - signal->phase_ns;
        int64_t periods = since / signal->period_ns;
        if (since % signal->period_ns < 0) periods--;
        int64_t rest = since - periods * signal->period_ns;
        int64_t on = rest < signal->on_ns ? rest : signal->on_ns;
        int64_t off_ns = signal->period_ns - signal->on_ns;
        sum[i] = (wide_t)periods * ((wide_t)signal->on_ns * signal->high + (wide_t)off_ns * signal->low) +
                 (wide_t)on * signal->high + (wide_t)(rest - on) * signal->low;
    }
    return sum[0] - sum[1];
}

static int64_t signal_value(const struct signal *signal, int64_t at_ns)
{
    if (signal->kind == SIGNAL_CONSTANT) return signal->high;
    int64_t rest = (at_ns - signal->phase_ns) % signal->period_ns;
    if (rest < 0) rest += signal->period_ns;
    return rest < signal->on_ns ? signal->high : signal->low;
}

void track_finish(struct track *track)
{
    for (size_t i = 0; i < track->count; i++) {
        struct span *span = &track->spans[i];
        if (i == 0) {
            span->before = 0;
            span->run_from_ns = INT64_MIN;
            continue;
        }
        const struct span *last = &track->spans[i - 1];
        span->before = last->before + signal_integral(&last->signal, span->from_ns) -
                       signal_integral(&last->signal, last->from_ns);
        span->run_from_ns = last->signal.kind == SIGNAL_ERROR ? span->from_ns : last->run_from_ns;
    }
}

const struct span *track_span(const struct track *track, int64_t at_ns)
{
    size_t low = 0, high = track->count; /* the last span with from_ns <= at_ns, else the first */
    while (high - low > 1) {
        size_t middle = low + (high - low) / 2;
        if (track->spans[middle].from_ns <= at_ns)
            low = middle;
        else
            high = middle;
    }
    return &track->spans[low];
}

bool track_scripted(const struct gpu *gpu, enum track_id id)
{
    return gpu->tracks[id].count > 0;
}

nvmlReturn_t track_value(const struct gpu *gpu, enum track_id id, int64_t at_ns, int64_t *value)
{
    if (!track_scripted(gpu, id)) {
        *value = initial_values[id];
        return NVML_SUCCESS;
    }
    const struct span *span = track_span(&gpu->tracks[id], at_ns);
    if (span->signal.kind == SIGNAL_ERROR) return span->signal.code;
    *value = signal_value(&span->signal, at_ns);
    return NVML_SUCCESS;
}

wide_t track_integral(const struct gpu *gpu, enum track_id id, int64_t at_ns)
{
    if (!track_scripted(gpu, id)) return (wide_t)initial_values[id] * at_ns;
    const struct span *span = track_span(&gpu->tracks[id], at_ns);
    return span->before + signal_integral(&span->signal, at_ns) -
           signal_integral(&span->signal, span->from_ns);
}

nvmlReturn_t track_mean(const struct gpu *gpu, enum track_id id, int64_t at_ns, int64_t window_ns,
                        int64_t unit, int64_t *value)
{
    nvmlReturn_t result = track_value(gpu, id, at_ns, value);
    if (result != NVML_SUCCESS) return result;
    int64_t from_ns = at_ns - window_ns;
    if (track_scripted(gpu, id)) {
        int64_t run_from_ns = track_span(&gpu->tracks[id], at_ns)->run_from_ns;
        if (run_from_ns > from_ns) from_ns = run_from_ns;
    }
    wide_t divisor = (wide_t)(at_ns - from_ns) * unit;
    wide_t sum = divisor == 0 ? *value : track_integral(gpu, id, at_ns) - track_integral(gpu, id, from_ns);
    if (divisor == 0) divisor = unit;
    *value = (int64_t)((2 * sum + divisor) / (2 * divisor));
    return NVML_SUCCESS;
}

nvmlReturn_t energy_mj(const struct gpu *gpu, int64_t at_ns, unsigned long long *energy)
{
    int64_t power_mw;
    nvmlReturn_t result = track_value(gpu, TRACK_power_mw, at_ns, &power_mw);
    if (result != NVML_SUCCESS) return result;
    int64_t base_mj = gpu->energy_base_mj;
    at_ns -= at_ns % gpu->energy_refresh_ns; /* what the counter showed last */
    wide_t since = 0;
    for (size_t i = 0; i < gpu->resets.count; i++) {
        const struct energy_reset *reset = &gpu->resets.items[i];
        if (reset->at_ns > at_ns) break;
        base_mj = reset->base_mj;
        since = track_integral(gpu, TRACK_power_mw, reset->at_ns);
    }
    /* mW x ns = 1e-12 J: a billionth of a mJ */
    wide_t joules = track_integral(gpu, TRACK_power_mw, at_ns) - since;
    joules = joules * gpu->energy_rate_ppm / RATIO_FULL;
    *energy = (unsigned long long)(base_mj + (int64_t)(joules / SECOND_NS));
    return NVML_SUCCESS;
}
