/* SPDX-License-Identifier: Apache-2.0
 *
 * One line of a script: a word that says what it is, then its fields. See README.md.
 */
#define _GNU_SOURCE
#include "abi.h"

#include <stdlib.h>
#include <string.h>

static const char *const track_names[TRACK_COUNT] = {
#define NAME_ENTRY(name, initial) [TRACK_##name] = #name,
    TRACKS(NAME_ENTRY)
#undef NAME_ENTRY
};

struct cursor {
    char *rest;
    const char *where;
};

static char *word(struct cursor *cursor)
{
    char *found = strtok_r(NULL, " \t", &cursor->rest);
    if (found == NULL) fail("%s: a field is missing", cursor->where);
    return found;
}

static int64_t number(struct cursor *cursor)
{
    const char *text = word(cursor);
    char *end;
    int64_t value = strtoll(text, &end, 0);
    if (end == text || *end != '\0') fail("%s: '%s' is not a whole number", cursor->where, text);
    return value;
}

static int64_t moment(struct cursor *cursor)
{
    return number(cursor) * MS_NS;
}

static int64_t moment_or_end(struct cursor *cursor)
{
    char *peek = cursor->rest + strspn(cursor->rest, " \t");
    if (strncmp(peek, "end", 3) == 0 && (peek[3] == '\0' || peek[3] == ' ')) {
        word(cursor);
        return FOREVER_NS;
    }
    return moment(cursor);
}

static bool more(const struct cursor *cursor)
{
    return cursor->rest[strspn(cursor->rest, " \t")] != '\0';
}

static void finish(const struct cursor *cursor)
{
    if (more(cursor)) fail("%s: '%s' is left over", cursor->where, cursor->rest);
}

static void text(struct cursor *cursor, char *out, size_t size)
{
    const char *from = cursor->rest + strspn(cursor->rest, " \t");
    if (*from == '\0' || strlen(from) >= size) fail("%s: the text is empty or too long", cursor->where);
    memcpy(out, from, strlen(from) + 1);
    cursor->rest += strlen(cursor->rest);
}

static struct gpu *gpu_of(struct cursor *cursor)
{
    int64_t index = number(cursor);
    if (index < 0 || index >= (int64_t)script.gpu_count) fail("%s: no such GPU", cursor->where);
    return &script.gpus[index];
}

/* GPU/INSTANCE; `after` is what stands behind the stroke, NULL where there is none. */
static struct gpu *place(struct cursor *cursor, char **after)
{
    char *text = word(cursor), *end;
    long index = strtol(text, &end, 10);
    if (end == text || (*end != '\0' && *end != '/')) fail("%s: '%s' is no GPU", cursor->where, text);
    if (index < 0 || index >= (long)script.gpu_count) fail("%s: no such GPU", cursor->where);
    *after = *end == '/' ? end + 1 : NULL;
    return &script.gpus[index];
}

static struct gpu *gpu_or_instance(struct cursor *cursor)
{
    char *after, *end;
    struct gpu *gpu = place(cursor, &after);
    if (after == NULL) return gpu;
    unsigned long ordinal = strtoul(after, &end, 10);
    if (end == after || *end != '\0' || ordinal >= gpu->instances.count) fail("%s: no such instance", cursor->where);
    return gpu->instances.items[ordinal];
}

/* `*`: any; N: a GPU and all its instances; N/-: the board alone; N/I: one instance. */
static void place_of_rule(struct cursor *cursor, struct rule *rule)
{
    char *peek = cursor->rest + strspn(cursor->rest, " \t");
    rule->gpu = rule->instance = ANY;
    if (*peek == '*') {
        word(cursor);
        return;
    }
    char *after, *end;
    struct gpu *gpu = place(cursor, &after);
    rule->gpu = (int)gpu->index;
    if (after == NULL) return;
    if (strcmp(after, "-") == 0) {
        rule->instance = BOARD;
        return;
    }
    rule->instance = (int)strtol(after, &end, 10);
    if (end == after || *end != '\0' || rule->instance < 0 || rule->instance >= (int)gpu->instances.count)
        fail("%s: no such instance", cursor->where);
}

static void parse_set(struct cursor *c)
{
    const char *key = word(c);
    if (strcmp(key, "utilization_period_ms") == 0) script.utilization_period_ns = moment(c);
    else if (strcmp(key, "gpm_refresh_ms") == 0) script.gpm_refresh_ns = moment(c);
    else if (strcmp(key, "samples_hz") == 0) script.samples_hz = (unsigned int)number(c);
    else if (strcmp(key, "mig_parent_gpm") == 0) script.mig_parent_gpm = (unsigned int)number(c);
    else if (strcmp(key, "samples_ring") == 0) script.samples_ring = (unsigned int)number(c);
    else if (strcmp(key, "cuda") == 0) script.cuda = (int)number(c);
    else if (strcmp(key, "driver") == 0) text(c, script.driver, sizeof script.driver);
    else if (strcmp(key, "nvml") == 0) text(c, script.nvml, sizeof script.nvml);
    else fail("%s: unknown setting '%s'", c->where, key);
}

static void parse_gpu(struct cursor *c)
{
    int64_t index = number(c);
    if (index == (int64_t)script.gpu_count && !more(c)) {
        if (script.gpu_count == MAX_GPUS) fail("%s: too many GPUs", c->where);
        struct gpu *gpu = &script.gpus[script.gpu_count++];
        gpu->index = gpu->minor = (unsigned int)index;
        gpu->gpm = gpu->mig_supported = 1;
        for (unsigned int s = 0; s < MAX_SLOTS; s++) gpu->slots[s] = (struct slot){gpu, s};
        gpu->capability_major = 9;
        gpu->architecture = NVML_DEVICE_ARCH_HOPPER;
        gpu->pci_device = 0x233010DE;
        strcpy(gpu->serial, "-");
        strcpy(gpu->part, "-");
        return;
    }
    if (index < 0 || index >= (int64_t)script.gpu_count) fail("%s: no such GPU", c->where);
    struct gpu *gpu = &script.gpus[index];
    const char *key = word(c);
    if (strcmp(key, "uuid") == 0) text(c, gpu->uuid, sizeof gpu->uuid);
    else if (strcmp(key, "serial") == 0) text(c, gpu->serial, sizeof gpu->serial);
    else if (strcmp(key, "name") == 0) text(c, gpu->name, sizeof gpu->name);
    else if (strcmp(key, "part") == 0) text(c, gpu->part, sizeof gpu->part);
    else if (strcmp(key, "pci") == 0) text(c, gpu->pci, sizeof gpu->pci);
    else if (strcmp(key, "pci_device") == 0) gpu->pci_device = (unsigned int)number(c);
    else if (strcmp(key, "minor") == 0) gpu->minor = (unsigned int)number(c);
    else if (strcmp(key, "memory_total_bytes") == 0) gpu->memory_total_bytes = (unsigned long long)number(c);
    else if (strcmp(key, "memory_reserved_bytes") == 0) gpu->memory_reserved_bytes = (unsigned long long)number(c);
    else if (strcmp(key, "power_limit_mw") == 0) gpu->power_limit_mw = (unsigned int)number(c);
    else if (strcmp(key, "energy_base_mj") == 0) gpu->energy_base_mj = number(c);
    else if (strcmp(key, "architecture") == 0) gpu->architecture = (unsigned int)number(c);
    else if (strcmp(key, "gpm") == 0) gpu->gpm = (unsigned int)number(c);
    else if (strcmp(key, "mig_supported") == 0) gpu->mig_supported = (unsigned int)number(c);
    else if (strcmp(key, "capability") == 0) {
        gpu->capability_major = (int)number(c);
        gpu->capability_minor = (int)number(c);
    } else fail("%s: unknown attribute '%s'", c->where, key);
}

static void parse_mig(struct cursor *c)
{
    struct gpu *gpu = gpu_of(c);
    struct mig_mode *mode = LIST_ADD(gpu->mig_modes);
    mode->from_ns = moment(c);
    mode->current = (unsigned int)number(c);
    mode->pending = more(c) ? (unsigned int)number(c) : mode->current;
}

static void parse_instance(struct cursor *c)
{
    char *after;
    struct gpu *board = place(c, &after);
    if (after == NULL || (size_t)atol(after) != board->instances.count)
        fail("%s: instances of a GPU are declared as GPU/0, GPU/1, ...", c->where);
    struct gpu *instance = calloc(1, sizeof *instance);
    if (instance == NULL) fail("out of memory");
    *LIST_ADD(board->instances) = instance;
    instance->board = board;
    instance->index = board->index;
    instance->ordinal = (unsigned int)board->instances.count - 1;
    instance->id = (unsigned int)number(c);
    instance->slices = (unsigned int)number(c);
    instance->memory_total_bytes = (unsigned long long)number(c);
    instance->from_ns = moment(c);
    instance->to_ns = moment_or_end(c);
    text(c, instance->profile, sizeof instance->profile);
}

static void parse_device(struct cursor *c)
{
    struct gpu *instance = gpu_or_instance(c);
    if (instance->board == NULL) fail("%s: a MIG device is of an instance", c->where);
    struct mig_device *device = LIST_ADD(instance->devices);
    device->slot = (unsigned int)number(c);
    if (device->slot >= MAX_SLOTS) fail("%s: a GPU has %d slots", c->where, MAX_SLOTS);
    device->compute_instance = (unsigned int)number(c);
    const char *uuid = word(c);
    if (strlen(uuid) >= sizeof device->uuid) fail("%s: the text is empty or too long", c->where);
    strcpy(device->uuid, uuid);
    device->from_ns = moment(c);
    device->to_ns = moment_or_end(c);
    if (more(c)) {
        if (strcmp(word(c), "ghost") != 0) fail("%s: only 'ghost' may follow", c->where);
        device->ghost = true;
    }
}

static void parse_track(struct cursor *c)
{
    struct gpu *gpu = gpu_or_instance(c);
    const char *name = word(c);
    int id = 0;
    while (id < TRACK_COUNT && strcmp(name, track_names[id]) != 0) id++;
    if (id == TRACK_COUNT) fail("%s: unknown track '%s'", c->where, name);
    struct track *track = &gpu->tracks[id];
    int64_t from_ns = moment(c);
    int64_t least_ns = track->count == 0 ? 0 : track->spans[track->count - 1].from_ns + 1;
    if (from_ns < least_ns || (track->count == 0 && from_ns != 0))
        fail("%s: a track starts at 0 and its moments rise", c->where);
    track->spans = list_grow(track->spans, &track->count, &track->capacity, sizeof *track->spans);
    struct span *span = &track->spans[track->count - 1];
    span->from_ns = from_ns;
    const char *kind = word(c);
    if (strcmp(kind, "const") == 0) {
        span->signal = (struct signal){.kind = SIGNAL_CONSTANT, .high = number(c)};
    } else if (strcmp(kind, "error") == 0) {
        span->signal = (struct signal){.kind = SIGNAL_ERROR, .code = (nvmlReturn_t)number(c)};
    } else if (strcmp(kind, "wave") == 0) {
        struct signal *signal = &span->signal;
        signal->kind = SIGNAL_WAVE;
        signal->period_ns = moment(c);
        signal->on_ns = moment(c);
        signal->phase_ns = moment(c);
        signal->high = number(c);
        signal->low = number(c);
        if (signal->period_ns <= 0 || signal->on_ns < 0 || signal->on_ns > signal->period_ns)
            fail("%s: a wave needs 0 <= on <= period and period > 0", c->where);
    } else {
        fail("%s: expected const, wave or error, not '%s'", c->where, kind);
    }
}

static void parse_process(struct cursor *c)
{
    struct gpu *gpu = gpu_or_instance(c);
    struct process *process = LIST_ADD(gpu->processes);
    process->pid = (unsigned int)number(c);
    const char *kind = word(c);
    if (strcmp(kind, "compute") == 0) process->list = CALL_nvmlDeviceGetComputeRunningProcesses_v3;
    else if (strcmp(kind, "graphics") == 0) process->list = CALL_nvmlDeviceGetGraphicsRunningProcesses_v3;
    else if (strcmp(kind, "mps") == 0) process->list = CALL_nvmlDeviceGetMPSComputeRunningProcesses_v3;
    else fail("%s: a process is compute, graphics or mps", c->where);
    process->from_ns = moment(c);
    process->to_ns = moment_or_end(c);
    process->memory_bytes = (unsigned long long)NVML_VALUE_NOT_AVAILABLE;
    if (more(c) && strncmp(c->rest + strspn(c->rest, " \t"), "-", 1) == 0) word(c);
    else if (more(c)) process->memory_bytes = (unsigned long long)number(c);
    process->compute_instance = more(c) ? (unsigned int)number(c) : 0;
}

static void parse_outage(struct cursor *c, nvmlReturn_t code)
{
    struct gpu *gpu = gpu_of(c);
    struct outage *outage = LIST_ADD(gpu->outages);
    outage->code = code;
    outage->from_ns = moment(c);
    outage->to_ns = moment_or_end(c);
    if (more(c)) {
        if (strcmp(word(c), "handle") != 0) fail("%s: only 'handle' may follow", c->where);
        outage->handle_fails = true;
    }
}

static void parse_rule(struct cursor *c)
{
    struct rule *rule = LIST_ADD(script.rules);
    const char *name = word(c);
    rule->function = function_by_name(name);
    if (rule->function == -2) fail("%s: no function '%s' in this library", c->where, name);
    place_of_rule(c, rule);
    rule->from_ns = moment(c);
    rule->to_ns = moment_or_end(c);
    const char *kind = word(c);
    if (strcmp(kind, "error") == 0) {
        rule->kind = RULE_ERROR;
        rule->code = (nvmlReturn_t)number(c);
    } else if (strcmp(kind, "latency") == 0) {
        rule->kind = RULE_LATENCY;
        rule->latency_ns = moment(c);
    } else if (strcmp(kind, "fail") == 0) {
        rule->kind = RULE_FAIL;
        rule->nth = (uint64_t)number(c);
        rule->of = (uint64_t)number(c);
        rule->code = (nvmlReturn_t)number(c);
        if (rule->of == 0 || rule->nth >= rule->of) fail("%s: fail K N needs 0 <= K < N", c->where);
    } else if (strcmp(kind, "field") == 0) {
        rule->kind = RULE_FIELD;
        rule->field = (unsigned int)number(c);
        rule->code = (nvmlReturn_t)number(c);
    } else if (strcmp(kind, "kill") == 0) {
        rule->kind = RULE_KILL;
    } else {
        fail("%s: expected error, latency, fail, field or kill, not '%s'", c->where, kind);
    }
}

void parse_line(char *line, const char *where)
{
    struct cursor c = {.where = where};
    const char *what = strtok_r(line, " \t", &c.rest);
    if (what == NULL) return;
    if (strcmp(what, "set") == 0) parse_set(&c);
    else if (strcmp(what, "gpu") == 0) parse_gpu(&c);
    else if (strcmp(what, "mig") == 0) parse_mig(&c);
    else if (strcmp(what, "instance") == 0) parse_instance(&c);
    else if (strcmp(what, "device") == 0) parse_device(&c);
    else if (strcmp(what, "track") == 0) parse_track(&c);
    else if (strcmp(what, "process") == 0) parse_process(&c);
    else if (strcmp(what, "lost") == 0) parse_outage(&c, NVML_ERROR_GPU_IS_LOST);
    else if (strcmp(what, "reset_required") == 0) parse_outage(&c, NVML_ERROR_RESET_REQUIRED);
    else if (strcmp(what, "rule") == 0) parse_rule(&c);
    else if (strcmp(what, "energy_reset") == 0) {
        struct gpu *gpu = gpu_of(&c);
        struct energy_reset *reset = LIST_ADD(gpu->resets);
        reset->at_ns = moment(&c);
        reset->base_mj = number(&c);
    } else if (strcmp(what, "xid") == 0) {
        struct gpu *gpu = gpu_of(&c);
        struct xid *xid = LIST_ADD(gpu->xids);
        xid->at_ns = moment(&c);
        xid->code = (unsigned long long)number(&c);
    } else {
        fail("%s: unknown word '%s'", where, what);
    }
    finish(&c);
}
