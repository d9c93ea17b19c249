/* A stand-in for libnvidia-ml.so.1, with the function signatures and struct layouts of nvml.h, for the calls that the probe makes.
 *
 * Compiled by the tests and loaded by the real pynvml. FAKE_NVML_SCENARIO chooses the machine; every function behaves as NVML does:
 * it checks its buffers, counts before it fills, and answers with an nvmlReturn_t.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define API __attribute__((visibility("default")))
#define MIB (1024ULL * 1024ULL)
#define NOT_AVAILABLE 0xFFFFFFFFFFFFFFFFULL /* NVML_VALUE_NOT_AVAILABLE */

enum {
    SUCCESS = 0,
    INVALID_ARGUMENT = 2,
    NOT_SUPPORTED = 3,
    NO_PERMISSION = 4,
    NOT_FOUND = 6,
    INSUFFICIENT_SIZE = 7,
    DRIVER_NOT_LOADED = 9,
    FUNCTION_NOT_FOUND = 13,
    GPU_IS_LOST = 15,
    LIB_RM_VERSION_MISMATCH = 18,
    UNKNOWN = 999,
};

typedef struct { unsigned long long total, free, used; } Memory;
typedef struct { unsigned int pid; unsigned long long usedGpuMemory; unsigned int gpuInstanceId, computeInstanceId; } ProcessInfo;
typedef struct {
    unsigned int multiprocessorCount, sharedCopyEngineCount, sharedDecoderCount, sharedEncoderCount, sharedJpegCount, sharedOfaCount,
        gpuInstanceSliceCount, computeInstanceSliceCount;
    unsigned long long memorySizeMB;
} Attributes;

typedef struct {
    const char *name, *uuid;
    unsigned long long total_mib, used_mib;
    int major, minor;
    unsigned int multiprocessors; /* of a MIG instance */
    int mig_mode;                 /* -1: the card knows no MIG */
    int first_instance, instances;
    int processes; /* return code of the process list */
    int memory;    /* return code of the memory call */
    int capability;
    int handle;
    int answers; /* how many calls succeed before the card is lost; -1: always */
} Device;

#define CARD(name, uuid, total, used, major, minor) {name, uuid, total, used, major, minor, 0, -1, 0, 0, 0, 0, 0, 0, -1}

static Device different[] = {
    CARD("NVIDIA GeForce RTX 4090", "GPU-aaaa1111-0000-0000-0000-000000000001", 24564, 1200, 8, 9),
    CARD("NVIDIA A100-SXM4-80GB", "GPU-bbbb2222-0000-0000-0000-000000000002", 81920, 0, 8, 0),
    CARD("Tesla T4", "GPU-cccc3333-0000-0000-0000-000000000003", 15360, 3, 7, 5),
};
static Device shared_name[] = {
    CARD("NVIDIA GeForce RTX 3060", "GPU-0", 8192, 0, 8, 6),
    CARD("NVIDIA GeForce RTX 3060", "GPU-1", 12288, 0, 8, 6),
};
static Device unknown_card[] = {
    CARD("NVIDIA Quantum 9000", "GPU-0", 65536, 0, 9, 0),
    CARD("NVIDIA GeForce GT 710", "GPU-1", 2048, 0, 3, 5),
};
static Device mig[] = {
    {"NVIDIA A100-SXM4-40GB", "GPU-parent", 40960, 9800, 8, 0, 0, 1, 2, 3, NO_PERMISSION, 0, 0, 0, -1},
    {"NVIDIA A100-SXM4-40GB", "GPU-whole", 40960, 0, 8, 0, 0, 0, 0, 0, 0, 0, 0, 0, -1},
    {"NVIDIA A100-SXM4-40GB MIG 3g.20gb", "MIG-three", 19968, 1000, 8, 0, 42, 0, 0, 0, 0, 0, 0, 0, -1},
    {NULL}, /* an empty slot */
    {"NVIDIA A100-SXM4-40GB MIG 1g.5gb", "MIG-one", 4864, 0, 8, 0, 14, 0, 0, 0, 0, 0, 0, 0, -1},
};
static Device mig_empty[] = {{"NVIDIA H100 80GB HBM3", "GPU-0", 81559, 0, 9, 0, 0, 1, 1, 1, 0, 0, 0, 0, -1}, {NULL}};
static Device failing[] = {
    {"NVIDIA GeForce RTX 3090", "GPU-0", 24576, 0, 8, 6, 0, -1, 0, 0, NO_PERMISSION, 0, UNKNOWN, 0, -1},
    {"NVIDIA GB10", "GPU-1", 0, 0, 12, 1, 0, -1, 0, 0, 0, NOT_SUPPORTED, 0, 0, -1},
    {"NVIDIA Quantum 9000", "GPU-2", 0, 0, 9, 0, 0, -1, 0, 0, 0, UNKNOWN, 0, 0, -1},
    {"NVIDIA L4", "GPU-3", 23034, 0, 8, 9, 0, -1, 0, 0, 0, 0, 0, NO_PERMISSION, -1},
};
/* Three alike; the one in the middle is lost after FAKE_NVML_ANSWERS calls. */
static Device lost[] = {
    CARD("NVIDIA H100 80GB HBM3", "GPU-0", 81559, 0, 9, 0),
    CARD("NVIDIA H100 80GB HBM3", "GPU-1", 81559, 0, 9, 0),
    CARD("NVIDIA H100 80GB HBM3", "GPU-2", 81559, 0, 9, 0),
};

static Device *devices;
static unsigned int count;
static int initialised;

static int scenario_is(const char *name)
{
    const char *scenario = getenv("FAKE_NVML_SCENARIO");
    return scenario && strcmp(scenario, name) == 0;
}

API int nvmlInitWithFlags(unsigned int flags)
{
    (void)flags;
    if (scenario_is("driver_not_loaded")) return DRIVER_NOT_LOADED;
    if (scenario_is("driver_mismatch")) return LIB_RM_VERSION_MISMATCH;
    if (scenario_is("no_permission")) return NO_PERMISSION;
    if (scenario_is("odd_failure")) return 4242; /* a code newer than pynvml */
    if (scenario_is("different") || scenario_is("old_driver")) devices = different, count = 3;
    else if (scenario_is("shared_name")) devices = shared_name, count = 2;
    else if (scenario_is("unknown_card")) devices = unknown_card, count = 2;
    else if (scenario_is("mig")) devices = mig, count = 2;
    else if (scenario_is("mig_empty")) devices = mig_empty, count = 1;
    else if (scenario_is("failing")) devices = failing, count = 4;
    else if (scenario_is("lost")) {
        devices = lost, count = 3;
        lost[1].answers = atoi(getenv("FAKE_NVML_ANSWERS"));
    } else count = 0;
    initialised = 1;
    return SUCCESS;
}

API int nvmlShutdown(void)
{
    if (!initialised) return UNKNOWN;
    initialised = 0;
    return SUCCESS;
}

API const char *nvmlErrorString(int code)
{
    return code == 4242 ? "The moon is in the wrong phase." : "Unknown Error";
}

static int put(char *buffer, unsigned int length, const char *text)
{
    if (strlen(text) + 1 > length) return INSUFFICIENT_SIZE;
    strcpy(buffer, text);
    return SUCCESS;
}

API int nvmlSystemGetDriverVersion(char *version, unsigned int length) { return put(version, length, "580.65.06"); }

API int nvmlSystemGetCudaDriverVersion_v2(int *version)
{
    *version = 13020;
    return SUCCESS;
}

API int nvmlDeviceGetCount_v2(unsigned int *result)
{
    *result = count;
    return SUCCESS;
}

static int alive(Device *device)
{
    if (device->answers == 0) return GPU_IS_LOST;
    if (device->answers > 0) device->answers--;
    return SUCCESS;
}

API int nvmlDeviceGetHandleByIndex_v2(unsigned int index, Device **handle)
{
    if (index >= count) return INVALID_ARGUMENT;
    if (devices[index].handle) return devices[index].handle;
    int state = alive(&devices[index]);
    if (state == SUCCESS) *handle = &devices[index];
    return state;
}

#define STILL_ALIVE(device)          \
    do {                             \
        int state = alive(device);   \
        if (state) return state;     \
    } while (0)

API int nvmlDeviceGetName(Device *device, char *name, unsigned int length)
{
    STILL_ALIVE(device);
    return put(name, length, device->name);
}

API int nvmlDeviceGetUUID(Device *device, char *uuid, unsigned int length)
{
    STILL_ALIVE(device);
    return put(uuid, length, device->uuid);
}

API int nvmlDeviceGetMemoryInfo(Device *device, Memory *memory)
{
    STILL_ALIVE(device);
    if (device->memory) return device->memory;
    memory->total = device->total_mib * MIB;
    memory->used = device->used_mib * MIB;
    memory->free = memory->total - memory->used;
    return SUCCESS;
}

API int nvmlDeviceGetCudaComputeCapability(Device *device, int *major, int *minor)
{
    STILL_ALIVE(device);
    if (device->capability) return device->capability;
    *major = device->major;
    *minor = device->minor;
    return SUCCESS;
}

API int nvmlDeviceGetMigMode(Device *device, unsigned int *current, unsigned int *pending)
{
    STILL_ALIVE(device);
    if (device->mig_mode < 0) return NOT_SUPPORTED;
    *current = *pending = (unsigned int)device->mig_mode;
    return SUCCESS;
}

API int nvmlDeviceGetMaxMigDeviceCount(Device *device, unsigned int *result)
{
    *result = (unsigned int)device->instances;
    return SUCCESS;
}

API int nvmlDeviceGetMigDeviceHandleByIndex(Device *device, unsigned int index, Device **instance)
{
    if ((int)index >= device->instances) return INVALID_ARGUMENT;
    Device *found = &devices[device->first_instance + (int)index];
    if (!found->name) return NOT_FOUND;
    *instance = found;
    return SUCCESS;
}

API int nvmlDeviceGetAttributes_v2(Device *device, Attributes *attributes)
{
    if (!device->multiprocessors) return NOT_SUPPORTED;
    memset(attributes, 0, sizeof *attributes);
    attributes->multiprocessorCount = device->multiprocessors;
    attributes->memorySizeMB = device->total_mib;
    return SUCCESS;
}

/* The protocol of NVML: too small an array is answered with INSUFFICIENT_SIZE and the number needed. */
static int list(const ProcessInfo *processes, unsigned int needed, unsigned int *room, ProcessInfo *out)
{
    unsigned int had = *room;
    *room = needed;
    if (needed == 0) return SUCCESS;
    if (had < needed || !out) return INSUFFICIENT_SIZE;
    memcpy(out, processes, needed * sizeof *processes);
    return SUCCESS;
}

static unsigned int test_pid(void) { return (unsigned int)atoi(getenv("FAKE_NVML_PID") ? getenv("FAKE_NVML_PID") : "0"); }

static int compute_processes(Device *device, unsigned int *room, ProcessInfo *out)
{
    STILL_ALIVE(device);
    if (device->processes) return device->processes;
    ProcessInfo running[] = {{test_pid(), 1000 * MIB, 0, 0}, {2147483000u, NOT_AVAILABLE, 0, 0}};
    return list(running, device == &different[0] ? 2 : device == &mig[2] ? 1 : 0, room, out);
}

static int graphics_processes(Device *device, unsigned int *room, ProcessInfo *out)
{
    STILL_ALIVE(device);
    if (device->processes) return device->processes;
    ProcessInfo running[] = {{test_pid(), 1000 * MIB, 0, 0}, {2147483001u, 200 * MIB, 0, 0}};
    return list(running, device == &different[0] ? 2 : 0, room, out);
}

/* An old driver has version 2 of the lists only. */
API int nvmlDeviceGetComputeRunningProcesses_v3(Device *device, unsigned int *room, ProcessInfo *out)
{
    return scenario_is("old_driver") ? FUNCTION_NOT_FOUND : compute_processes(device, room, out);
}

API int nvmlDeviceGetComputeRunningProcesses_v2(Device *device, unsigned int *room, ProcessInfo *out)
{
    return compute_processes(device, room, out);
}

API int nvmlDeviceGetGraphicsRunningProcesses_v3(Device *device, unsigned int *room, ProcessInfo *out)
{
    return scenario_is("old_driver") ? FUNCTION_NOT_FOUND : graphics_processes(device, room, out);
}

API int nvmlDeviceGetGraphicsRunningProcesses_v2(Device *device, unsigned int *room, ProcessInfo *out)
{
    return graphics_processes(device, room, out);
}
