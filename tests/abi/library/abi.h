/* SPDX-License-Identifier: Apache-2.0
 *
 * A scripted libnvidia-ml.so.1: shared declarations.
 *
 * Times are nanoseconds since script start unless a name says otherwise; ratios are
 * parts per million of one (100 % = 1,000,000); power is mW, energy mJ, memory bytes.
 */
#ifndef GPULEDGER_ABI_H
#define GPULEDGER_ABI_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define NVML_NO_UNVERSIONED_FUNC_DEFS
#pragma GCC visibility push(default)
#include <nvml.h>
/* Own exported helper: calls seen so far of a function by its name; 0 if never called. */
uint64_t gpuledger_abi_calls(const char *function);
#pragma GCC visibility pop

#define MS_NS 1000000LL
#define SECOND_NS 1000000000LL
#define RATIO_FULL 1000000LL
#define FOREVER_NS INT64_MAX
#define ANY (-1)
#define MAX_GPUS 64
#define MAX_SLOTS 7 /* MIG devices of one GPU at a time */
#define BOARD (-2)  /* in a rule: the board itself, none of its instances */
#define NO_INSTANCE 0xFFFFFFFFu

typedef __int128 wide_t;

/* Every exported NVML function, once. Anything the header declares and this list lacks is
 * absent from the library, as it would be in an older driver. */
#define FUNCTIONS(X) \
    X(nvmlInit_v2) X(nvmlInitWithFlags) X(nvmlShutdown) \
    X(nvmlSystemGetDriverVersion) X(nvmlSystemGetNVMLVersion) X(nvmlSystemGetCudaDriverVersion_v2) \
    X(nvmlDeviceGetCount_v2) X(nvmlDeviceGetHandleByIndex_v2) X(nvmlDeviceGetHandleByUUID) \
    X(nvmlDeviceGetUUID) X(nvmlDeviceGetSerial) X(nvmlDeviceGetName) X(nvmlDeviceGetPciInfo_v3) \
    X(nvmlDeviceGetIndex) X(nvmlDeviceGetMinorNumber) X(nvmlDeviceGetBoardPartNumber) \
    X(nvmlDeviceGetCudaComputeCapability) X(nvmlDeviceGetArchitecture) \
    X(nvmlDeviceGetUtilizationRates) X(nvmlDeviceGetSamples) \
    X(nvmlDeviceGetMemoryInfo) X(nvmlDeviceGetMemoryInfo_v2) \
    X(nvmlDeviceGetComputeRunningProcesses_v3) X(nvmlDeviceGetGraphicsRunningProcesses_v3) \
    X(nvmlDeviceGetMPSComputeRunningProcesses_v3) X(nvmlDeviceGetAccountingMode) \
    X(nvmlDeviceGetFieldValues) X(nvmlDeviceGetTotalEnergyConsumption) X(nvmlDeviceGetPowerUsage) \
    X(nvmlDeviceGetEnforcedPowerLimit) X(nvmlDeviceGetPowerManagementLimit) \
    X(nvmlDeviceGetTemperature) X(nvmlDeviceGetClockInfo) X(nvmlDeviceGetCurrentClocksEventReasons) \
    X(nvmlDeviceGetPerformanceState) X(nvmlDeviceGetRemappedRows) X(nvmlDeviceGetTotalEccErrors) \
    X(nvmlDeviceGetMigMode) X(nvmlDeviceGetMaxMigDeviceCount) X(nvmlDeviceGetMigDeviceHandleByIndex) \
    X(nvmlDeviceIsMigDeviceHandle) X(nvmlDeviceGetDeviceHandleFromMigDeviceHandle) \
    X(nvmlDeviceGetGpuInstanceId) X(nvmlDeviceGetComputeInstanceId) X(nvmlDeviceGetAttributes_v2) \
    X(nvmlGpmMigSampleGet) \
    X(nvmlGpmQueryDeviceSupport) X(nvmlGpmSampleAlloc) X(nvmlGpmSampleFree) X(nvmlGpmSampleGet) \
    X(nvmlGpmMetricsGet) \
    X(nvmlEventSetCreate) X(nvmlEventSetFree) X(nvmlDeviceRegisterEvents) X(nvmlEventSetWait_v2) \
    X(nvmlDeviceGetSupportedEventTypes)

enum function {
#define ENUM_ENTRY(name) CALL_##name,
    FUNCTIONS(ENUM_ENTRY)
#undef ENUM_ENTRY
        FUNCTION_COUNT
};

/* Quantities that vary over time, each on its own list of spans. Second column: default. */
#define TRACKS(X) \
    X(utilization, 0) X(memory_utilization, 0) X(graphics, 0) X(sm, 0) X(sm_occupancy, 0) \
    X(tensor, 0) X(dram, 0) X(pcie_tx_bytes, 0) X(pcie_rx_bytes, 0) \
    X(nvlink_rx_bytes, 0) X(nvlink_tx_bytes, 0) \
    X(power_mw, 70000) X(memory_used_bytes, 0) \
    X(temperature_c, 35) X(memory_temperature_c, 40) \
    X(sm_clock_mhz, 1980) X(memory_clock_mhz, 2619) X(clock_reasons, 0) X(performance_state, 0) \
    X(throttle_power, 0) X(throttle_thermal, 0) X(throttle_hw_thermal, 0) X(throttle_brake, 0) \
    X(recovery_action, 0) X(remap_corrected, 0) X(remap_uncorrected, 0) \
    X(remap_pending, 0) X(remap_failure, 0) \
    X(ecc_corrected, 0) X(ecc_uncorrected, 0) X(accounting_mode, 0)

enum track_id {
#define ENUM_ENTRY(name, initial) TRACK_##name,
    TRACKS(ENUM_ENTRY)
#undef ENUM_ENTRY
        TRACK_COUNT
};

enum signal_kind { SIGNAL_CONSTANT, SIGNAL_WAVE, SIGNAL_ERROR };

struct signal {
    enum signal_kind kind;
    int64_t high; /* the value, or the wave's upper level */
    int64_t low;
    int64_t period_ns, on_ns, phase_ns; /* phase counts from script start */
    nvmlReturn_t code;
};

struct span {
    int64_t from_ns;
    struct signal signal;
    wide_t before;       /* integral of the track from 0 to from_ns */
    int64_t run_from_ns; /* start of the error-free run this span belongs to; INT64_MIN: the first */
};

struct track {
    struct span *spans; /* the first starts at 0; NULL: the quantity was not scripted */
    size_t count, capacity;
};

struct process {
    unsigned int pid;
    enum function list; /* which of the three process lists shows it */
    int64_t from_ns, to_ns;
    unsigned long long memory_bytes; /* all ones: not available */
    unsigned int compute_instance;   /* of a process on a GPU instance */
};

struct outage {
    int64_t from_ns, to_ns;
    nvmlReturn_t code; /* GPU_IS_LOST or RESET_REQUIRED */
    bool handle_fails;
};

struct energy_reset {
    int64_t at_ns;
    int64_t base_mj;
};

struct xid {
    int64_t at_ns;
    unsigned long long code;
};

#define LIST(type) \
    struct { \
        type *items; \
        size_t count, capacity; \
    }

struct mig_mode {
    int64_t from_ns;
    unsigned int current, pending;
};

/* A compute instance: what NVML calls a MIG device. */
struct mig_device {
    unsigned int slot, compute_instance;
    char uuid[96];
    int64_t from_ns, to_ns;
    bool ghost; /* once destroyed its slot still hands out the handle */
};

/* What the handle of a MIG device points at: whatever lives in the slot when it is used, or nothing. */
struct slot {
    struct gpu *board;
    unsigned int index;
};

/* A board, or one of its GPU instances: those have a board, and tracks and processes of their own. */
struct gpu {
    unsigned int index, minor, pci_device;
    char uuid[96], serial[32], name[96], part[80], pci[32];
    unsigned long long memory_total_bytes, memory_reserved_bytes;
    unsigned int power_limit_mw, architecture, gpm, mig_supported;
    int capability_major, capability_minor;
    int64_t energy_base_mj;
    struct track tracks[TRACK_COUNT];
    LIST(struct process) processes;
    LIST(struct outage) outages;
    LIST(struct energy_reset) resets;
    LIST(struct xid) xids;

    LIST(struct mig_mode) mig_modes; /* the first from 0 on */
    LIST(struct gpu *) instances;
    struct slot slots[MAX_SLOTS];

    struct gpu *board; /* NULL: this is one */
    unsigned int ordinal, id, slices;
    char profile[32];
    int64_t from_ns, to_ns;
    LIST(struct mig_device) devices;
};

enum rule_kind { RULE_ERROR, RULE_LATENCY, RULE_FAIL, RULE_FIELD, RULE_KILL };

struct rule {
    enum rule_kind kind;
    int function, gpu, instance; /* ANY: all; an instance may be BOARD: none */
    int64_t from_ns, to_ns;
    nvmlReturn_t code;
    int64_t latency_ns;
    uint64_t nth, of; /* RULE_FAIL: the calls seen with number % of == nth fail, from 0 */
    _Atomic uint64_t seen;
    unsigned int field;
};

struct script {
    struct gpu gpus[MAX_GPUS];
    unsigned int gpu_count;
    LIST(struct rule) rules;
    int64_t utilization_period_ns, gpm_refresh_ns;
    unsigned int mig_parent_gpm;
    unsigned int samples_hz, samples_ring;
    char driver[80], nvml[80];
    int cuda;
};

extern struct script script;

/* One call in flight: its GPU or GPU instance (NULL where none) and the script time its answer holds for. */
struct call {
    struct gpu *gpu;
    const struct mig_device *device; /* NULL: the call is not about a MIG device */
    int64_t now_ns;
};

/* clock.c */
void clock_open(void);
int64_t clock_now_ns(void);               /* since script start */
int64_t clock_wall_ns(int64_t script_ns); /* POSIX time of a script time */
void clock_advance(int64_t duration_ns);  /* virtual: moves the shared time; real: sleeps */
bool clock_is_virtual(void);
void sleep_real(int64_t duration_ns);

/* script.c, parse.c */
void script_load(void);
void script_finish(void);
_Noreturn void fail(const char *format, ...) __attribute__((format(printf, 1, 2)));
void *list_grow(void *items, size_t *count, size_t *capacity, size_t size);
#define LIST_ADD(list) \
    (&((list).items = list_grow((list).items, &(list).count, &(list).capacity, sizeof *(list).items)) \
          [(list).count - 1])
void parse_line(char *line, const char *where);
int function_by_name(const char *name); /* ANY for "*", -2 if unknown */

/* signal.c */
void track_finish(struct track *track);
const struct span *track_span(const struct track *track, int64_t at_ns);
bool track_scripted(const struct gpu *gpu, enum track_id id);
nvmlReturn_t track_value(const struct gpu *gpu, enum track_id id, int64_t at_ns, int64_t *value);
/* Mean over the window before at_ns, cut to the error-free run; rounded half up to a multiple
 * of `unit` and given in units. */
nvmlReturn_t track_mean(const struct gpu *gpu, enum track_id id, int64_t at_ns, int64_t window_ns,
                        int64_t unit, int64_t *value);
wide_t track_integral(const struct gpu *gpu, enum track_id id, int64_t at_ns);
/* mig.c */
bool mig_enabled(const struct gpu *board, int64_t at_ns);
struct gpu *instance_by_id(const struct gpu *board, unsigned int id, int64_t at_ns);
const struct mig_device *device_in_slot(const struct slot *slot, int64_t at_ns, struct gpu **instance);
nvmlReturn_t memory_used(const struct gpu *gpu, int64_t at_ns, int64_t *used);

nvmlReturn_t energy_mj(const struct gpu *gpu, int64_t at_ns, unsigned long long *energy);

/* call.c */
nvmlReturn_t enter(enum function function, struct call *call);
nvmlReturn_t enter_device(enum function function, nvmlDevice_t device, struct call *call);
nvmlReturn_t enter_any(enum function function, nvmlDevice_t device, struct call *call);
nvmlReturn_t enter_instance(enum function function, nvmlDevice_t device, unsigned int id, struct call *call);
nvmlReturn_t enter_index(enum function function, unsigned int index, struct call *call);
nvmlReturn_t field_rule(const struct gpu *gpu, unsigned int field, int64_t at_ns);
nvmlReturn_t copy_text(const char *text, char *out, unsigned int length);
extern _Atomic int initialised;
extern const char *const function_names[FUNCTION_COUNT];

/* Every entry point starts so: count, rules, latency, lost GPU; it returns on a failure. */
#define BEGIN(name) \
    struct call call; \
    nvmlReturn_t entry = enter(CALL_##name, &call); \
    if (entry != NVML_SUCCESS) return entry
#define BEGIN_DEVICE(name, device) \
    struct call call; \
    nvmlReturn_t entry = enter_device(CALL_##name, device, &call); \
    if (entry != NVML_SUCCESS) return entry
/* The same where the handle of a MIG device is as good as a GPU's. */
#define BEGIN_ANY(name, device) \
    struct call call; \
    nvmlReturn_t entry = enter_any(CALL_##name, device, &call); \
    if (entry != NVML_SUCCESS) return entry
/* The same for what the driver does not offer while the GPU is divided. */
#define BEGIN_WHOLE(name, device) \
    BEGIN_DEVICE(name, device); \
    if (mig_enabled(call.gpu, call.now_ns)) return NVML_ERROR_NOT_SUPPORTED
#define REQUIRE(condition) \
    if (!(condition)) return NVML_ERROR_INVALID_ARGUMENT

#endif
