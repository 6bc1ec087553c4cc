/* SPDX-License-Identifier: Apache-2.0
 *
 * Time: a small memory-mapped page shared with the agent's clock (virtual), or the machine's
 * own clocks. The page's layout is repeated in tests/fakes/shared_clock.py.
 */
#define _GNU_SOURCE
#include "abi.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#define CLOCK_MAGIC 0x314B434C4C554750LL /* "PGULLCK1", little endian */
#define MAX_STEPS 64

struct clock_page {
    int64_t magic;
    _Atomic int64_t boottime_ns;
    int64_t wall_offset_ns; /* wall = boottime + offset + the steps whose moment has come */
    int64_t start_boottime_ns;
    int64_t end_boottime_ns;
    int64_t step_count;
    struct {
        int64_t at_boottime_ns, delta_ns;
    } steps[MAX_STEPS];
};

static struct clock_page *page; /* NULL: real time */
static int64_t real_start_ns;

static int64_t read_clock_ns(clockid_t id)
{
    struct timespec now;
    clock_gettime(id, &now);
    return now.tv_sec * SECOND_NS + now.tv_nsec;
}

void clock_open(void)
{
    const char *path = getenv("GPULEDGER_ABI_CLOCK");
    if (path == NULL || *path == '\0') {
        const char *start = getenv("GPULEDGER_ABI_START_NS");
        real_start_ns = start != NULL ? strtoll(start, NULL, 10) : read_clock_ns(CLOCK_BOOTTIME);
        return;
    }
    int file = open(path, O_RDWR | O_CLOEXEC);
    if (file < 0) fail("%s: the shared clock cannot be opened", path);
    page = mmap(NULL, sizeof *page, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    close(file);
    if (page == MAP_FAILED) fail("%s: the shared clock cannot be mapped", path);
    if (page->magic != CLOCK_MAGIC) fail("%s: not a shared clock", path);
}

bool clock_is_virtual(void)
{
    return page != NULL;
}

int64_t clock_now_ns(void)
{
    if (page != NULL) return page->boottime_ns - page->start_boottime_ns;
    return read_clock_ns(CLOCK_BOOTTIME) - real_start_ns;
}

int64_t clock_wall_ns(int64_t script_ns)
{
    if (page == NULL)
        return read_clock_ns(CLOCK_REALTIME) - read_clock_ns(CLOCK_BOOTTIME) + real_start_ns + script_ns;
    int64_t boottime_ns = page->start_boottime_ns + script_ns;
    int64_t wall_ns = boottime_ns + page->wall_offset_ns;
    for (int64_t i = 0; i < page->step_count; i++)
        if (page->steps[i].at_boottime_ns <= boottime_ns) wall_ns += page->steps[i].delta_ns;
    return wall_ns;
}

void sleep_real(int64_t duration_ns)
{
    struct timespec rest = {duration_ns / SECOND_NS, duration_ns % SECOND_NS};
    while (nanosleep(&rest, &rest) != 0 && errno == EINTR) {
    }
}

void clock_advance(int64_t duration_ns)
{
    if (duration_ns <= 0) return;
    if (page != NULL)
        page->boottime_ns += duration_ns;
    else
        sleep_real(duration_ns);
}

void clock_await(int64_t script_ns)
{
    while (clock_now_ns() < script_ns) sleep_real(MS_NS);
}
