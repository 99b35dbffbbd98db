/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What all tests of device-exclusive memory share
 *
 * A test has a device and some memory that the device mirrors. It acquires
 * pages, does something, and then makes five claims:
 *
 *   data		what CPU and device read is what a model says
 *   events		exactly these pages were taken, for this cause
 *   entries		/proc/self/pagemap agrees
 *   references		no page is left exclusive, counts are as before
 *   kernel log		clean; whoever runs the tests watches it
 *
 * Functions return 0 (or what they were asked for) or a negative errno, like
 * the kernel. The check_*() functions return NULL, or say what is wrong; the
 * expect_*() macros of devexcl_test.h fail a test with that.
 */
#ifndef _DEVEXCL_UTIL_H
#define _DEVEXCL_UTIL_H

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/types.h>
#include <unistd.h>

#include <linux/test_devexcl_uapi.h>

#include "devexcl_missing.h"

/**
 * struct dev - an open device
 * @fd: its file
 * @info: what DEVEXCL_INFO said
 */
struct dev {
	int fd;
	struct devexcl_info info;
};

/**
 * struct mem - memory for a test
 * @p: first byte
 * @pages: pages
 * @size: bytes
 */
struct mem {
	char *p;
	size_t pages;
	size_t size;
};

/* Write a string to a file, in one piece; 0 or -errno. */
int write_file(const char *name, const char *text);

/* Bytes of a page, and of a transparent huge page (0 if there are none). */
size_t page_size(void);
size_t thp_size(void);

/* Address of page @n of some memory. */
static inline char *page_of(const struct mem *mem, size_t n)
{
	return mem->p + n * page_size();
}

/* The word at the beginning of a page. */
static inline uint64_t *word_of(const struct mem *mem, size_t n)
{
	return (uint64_t *)page_of(mem, n);
}

/* Make the compiler believe that the memory is looked at and changed. */
#define VOLATILE_MEM(p)		((volatile typeof(*(p)) *)(p))
#define READ_MEM(p)		(*VOLATILE_MEM(p))
#define WRITE_MEM(p, value)	(*VOLATILE_MEM(p) = (value))

/*
 * NUMA balancing looks, from time to time, whether pages are used, which takes
 * them from the device. Exempt this process and its children from it.
 */
void avoid_numa_balancing(void);

/*
 * Find out which swap types device-exclusive entries have, by looking at a page
 * that nobody else knows. 0 or -errno; entry_of() needs it.
 */
int calibrate_exclusive_entry(struct dev *dev);

/*
 * Private anonymous base pages in a VMA of their own, filled with fill_mem().
 * 0 or -errno.
 */
int mem_map(struct mem *mem, size_t pages);
/* A zeroed structure is left alone. */
void mem_unmap(struct mem *mem);

/* Open device @n; 0 or -errno. A zeroed structure is not closed. */
int dev_open(struct dev *dev, unsigned int n);
void dev_close(struct dev *dev);

/*
 * The ioctls. Sizes and flags are filled in, everything else is the caller's.
 */
int dev_ioctl(int fd, unsigned long cmd, void *arg);
int dev_mirror(struct dev *dev, const void *p, size_t size);
int dev_mirror_flags(struct dev *dev, const void *p, size_t size,
		     unsigned int flags);
int dev_unmirror(struct dev *dev, const void *p, size_t size);
/* Pages acquired, from the first on, or -errno of the first one. */
long dev_acquire(struct dev *dev, const void *p, size_t pages);
/*
 * The same for one page; but while the folio is merely locked by somebody
 * else (EBUSY) it tries again, as kernels that do not wait oblige drivers to.
 */
int dev_acquire_one(struct dev *dev, const void *p);
/* As dev_acquire(), for kernels that fail on locked folios: see above. */
int dev_acquire_all(struct dev *dev, const void *p, size_t pages);
/* Errors page by page; pages acquired or -errno. */
long dev_acquire_status(struct dev *dev, const void *p, size_t pages,
			int32_t *status);
/* Pages let go, or -errno. */
long dev_release(struct dev *dev, const void *p, size_t pages);
/* Operations done, or -errno of the first one. */
long dev_atomic(struct dev *dev, struct devexcl_atomic_op *ops, size_t nr,
		unsigned int flags, unsigned int gap_ns);
/* 64-bit fetch-and-add on a page that the device holds; 0 or -errno. */
int dev_add(struct dev *dev, uint64_t *p, uint64_t value, uint64_t *old);
/* Read or write 64 bits with the device, without being exclusive. */
int dev_read_word(struct dev *dev, const uint64_t *p, uint64_t *value);
int dev_write_word(struct dev *dev, uint64_t *p, uint64_t value);
/* Bytes copied, or -errno. */
long dev_copy(struct dev *dev, void *p, void *buf, size_t size,
	      unsigned int flags);
int dev_query(struct dev *dev, const void *p, size_t pages,
	      struct devexcl_page *infos);
int dev_stats(struct dev *dev, struct devexcl_stats *stats);
int dev_inject(struct dev *dev, unsigned int broken, unsigned int retries);
/*
 * Let the device fail at the @nth place from now on where it can, or not any
 * more (0). What became of the last such wish is put into @inject, if any.
 */
int dev_fail_nth(struct dev *dev, unsigned int nth,
		 struct devexcl_inject *inject);
/*
 * Give an engine a job; what is not given is filled in: an engine, one pass,
 * one operation of 64 bits, on one word if there is no length. The number of
 * the job or -errno.
 */
long dev_submit(struct dev *dev, const struct devexcl_submit *job);
/*
 * Wait for a job, for @timeout_ns. If it has ended, it is forgotten. 0 or
 * -errno; @result holds the progress also if the time is over.
 */
int dev_wait(struct dev *dev, uint32_t job, uint64_t timeout_ns,
	     struct devexcl_wait *result);
int dev_cancel(struct dev *dev, uint32_t job);
/*
 * Stop the next thread of the device that comes to an enum devexcl_point for
 * the page at @p (NULL: for any). Returns a file to wait on and to close, which
 * lets the thread go on; or -errno.
 */
int dev_break(struct dev *dev, unsigned int point, const void *p);
/* Wait until somebody has stopped: 0, or -ETIME after @seconds. */
int wait_for_break(int fd, unsigned int seconds);
/* Until somebody should have come there. */
#define STOP_SECONDS	60

/* Say in the kernel log which test is running. */
void mark_kernel_log(const char *name);
/* What the kernel has complained of so far, to be compared with later. */
long kernel_complaints(void);

/* Data: a pattern that is different in every word. */
void fill_mem(const struct mem *mem);
static inline uint64_t pattern_word(size_t page, size_t word)
{
	return 0x9e3779b97f4a7c15ULL * (page * 4099 + word + 1);
}

uint64_t pattern_of(const struct mem *mem, size_t page);

/* Events */

/**
 * struct taken - what the event stream said since it was last looked at
 * @exclusive: exclusive pages that mm took from the device
 * @calls: notifier calls that took any
 * @first: lowest byte of a range that was called for and took pages
 * @last: byte after the highest
 * @causes: bit n is set if pages were taken for &enum devexcl_cause n
 * @owners: bit n is set if pages were taken for &enum devexcl_owner n
 * @acquired: exclusive pages that the device acquired
 * @released: exclusive pages that the device let go by itself
 * @own: own notifier calls
 * @lost: records that are missing
 * @records: records read
 */
struct taken {
	uint64_t exclusive;
	uint64_t calls;
	uintptr_t first;
	uintptr_t last;
	uint32_t causes;
	uint32_t owners;
	uint64_t acquired;
	uint64_t released;
	uint64_t own;
	uint64_t lost;
	uint64_t records;
};

/* Records read, without waiting, or -errno; 0 if there are none. */
long dev_read_events(struct dev *dev, struct devexcl_event *events, size_t nr);
/* Read all there are, and sum them up. */
int dev_taken(struct dev *dev, struct taken *taken);
/* Forget what happened so far. */
void dev_forget_events(struct dev *dev);
/* Wait until there is an event; 0, or -ETIME after @seconds. */
int dev_wait_event(struct dev *dev, unsigned int seconds);

/* Entries */

/**
 * enum entry - what a page table entry is, as /proc/self/pagemap shows it
 * @ENTRY_NONE: nothing
 * @ENTRY_PRESENT: an ordinary page
 * @ENTRY_EXCLUSIVE: a device-exclusive entry
 * @ENTRY_SWAP: any other swap entry
 * @ENTRY_ERROR: the pagemap cannot be read
 */
enum entry {
	ENTRY_NONE,
	ENTRY_PRESENT,
	ENTRY_EXCLUSIVE,
	ENTRY_SWAP,
	ENTRY_ERROR,
};

#define PAGEMAP_PFN		((1ULL << 55) - 1)
#define PAGEMAP_SOFT_DIRTY	(1ULL << 55)
#define PAGEMAP_MMAP_EXCLUSIVE	(1ULL << 56)
#define PAGEMAP_UFFD_WP		(1ULL << 57)
#define PAGEMAP_FILE		(1ULL << 61)
#define PAGEMAP_SWAP		(1ULL << 62)
#define PAGEMAP_PRESENT		(1ULL << 63)

/* The pagemap word of a page; 0 if it cannot be read. */
uint64_t pagemap_of(const void *p);
/*
 * What it means. The swap type of a device-exclusive entry differs between
 * kernels and configurations: see calibrate_exclusive_entry().
 */
enum entry entry_of(const void *p);
const char *entry_name(enum entry entry);

/*
 * Begin to track writes: make all pages soft-clean. False if the kernel cannot
 * (CONFIG_MEM_SOFT_DIRTY).
 */
bool clear_soft_dirty(void);

/* Read a word; is there no further fault when it is written to? */
bool is_writable_when_read(uint64_t *word);
/* Are all of these pages soft-dirty, or all of them not? Else a claim. */
const char *check_soft_dirty(const struct mem *mem, size_t first, size_t pages,
			     bool dirty);

/* A number in kB from /proc/self/smaps, summed over the VMAs of some memory. */
long smaps_kb(const struct mem *mem, const char *field);
/* Does smaps have this among the VmFlags of a mapping that is just this? */
bool smaps_flag(const struct mem *mem, const char *flag);

/* Mappings of the page that the CPU finds at @p, or -errno. */
long mapcount_of(const void *p);

/* Bits of /proc/kpageflags */
#define KPF_DIRTY		(1ULL << 4)
#define KPF_BUDDY		(1ULL << 10)
#define KPF_MMAP		(1ULL << 11)
#define KPF_ANON		(1ULL << 12)
#define KPF_SWAPCACHE		(1ULL << 13)
#define KPF_COMPOUND_HEAD	(1ULL << 15)
#define KPF_COMPOUND_TAIL	(1ULL << 16)
#define KPF_NOPAGE		(1ULL << 20)
#define KPF_ZERO_PAGE		(1ULL << 24)
#define KPF_IDLE		(1ULL << 25)
#define KPF_RESERVED		(1ULL << 32)

/* What /proc/kpageflags says of a page frame; 0 if it cannot be read. */
uint64_t frame_flags(uint64_t pfn);
/* What /proc/kpagecount says, or -errno. */
long frame_mapcount(uint64_t pfn);

/*
 * A page that was just faulted in waits in a batch of its CPU to be put onto
 * the LRU list, and the batch holds a reference: before references can be
 * counted, have all batches emptied.
 */
void drain_lru_batches(void);
/*
 * The same for the batches of this CPU only, which is much cheaper: all there
 * are if all was done on one CPU, by stay_on_one_cpu(), and by no thread of the
 * kernel.
 */
void drain_own_lru_batches(void);
/*
 * References of a folio that are of the swap cache: what was swapped in may
 * stay there, and what reclaim has given up.
 */
int swap_cache_references(const struct devexcl_page *info);
/* Have free memory put together, for large folios to be made of. */
void defragment_memory(void);

/*
 * Claims: NULL if true, else what is wrong (a string that is good until the
 * next claim).
 */
const char *check_data(const struct mem *mem, size_t first, size_t pages);
const char *check_entries(const struct mem *mem, size_t first, size_t pages,
			  enum entry entry);
const char *check_held(struct dev *dev, const struct mem *mem, size_t first,
		       size_t pages, bool held);
const char *check_taken(struct dev *dev, const struct mem *mem, size_t first,
			size_t pages, uint32_t causes);
const char *check_references(struct dev *dev, const struct mem *mem);

/* Bit for the causes of check_taken(). */
#define CAUSE(name)	(1U << DEVEXCL_CAUSE_##name)

/* The cause that a CPU fault on an exclusive page has on this kernel. */
static inline uint32_t cause_of_fault(const struct dev *dev)
{
	return 1U << dev->info.restore_cause;
}

/* Randomness that can be had again */

/*
 * What the environment variable DEVEXCL_SEED says, or else something new. It is
 * printed, so that a failure can be repeated.
 */
uint64_t random_seed(void);
/* The next number of a sequence, whose state may begin with any number. */
uint64_t random_next(uint64_t *state);

/* Access that may be refused */

/*
 * Read or write a word with the CPU: 0, or the si_code of the signal that it
 * got instead (SEGV_ACCERR, SEGV_MAPERR, SEGV_PKUERR, BUS_...), which is
 * caught. For one thread of a process at a time. As the handler does not
 * return, a thread that was refused has a handler's protection key rights.
 */
int cpu_read(const uint64_t *p, uint64_t *value);
int cpu_write(uint64_t *p, uint64_t value);

/* Processes and threads */

/*
 * Have this thread, and all that it makes, run on one CPU: what it does is done
 * in a certain order, and nobody waits for another CPU to wake up. Who is to
 * run at the same time goes to another one, if there is one.
 */
void stay_on_one_cpu(void);
void go_to_other_cpus(void);

/*
 * For who looks again and again whether a thread of the kernel is done, which
 * tells nobody: leave the CPU to it for a moment.
 */
void nap(void);

/*
 * Wait for a child: its exit status, or -signal. A failed assertion in the
 * child is a nonzero status.
 */
int wait_child(pid_t pid);
/*
 * Run abi_compat32, which lies beside this program, with this argument or none: what
 * wait_child() says, or -ENOENT if it was not built, or -ENOEXEC.
 */
int run_compat32(const char *argument);

/*
 * While somebody has stopped who has the mmap_lock no thread can be made, and
 * in the middle of a fork() not even a variable be written or a page of the
 * program be read for the first time. So threads are made before that, have
 * their stacks, and the program is in memory; system calls are made without the
 * C library, which notes something for each.
 */
int load_program(void);
void touch_stack(void);

/**
 * struct progress - how far a thread has come, for who waits for that
 * @state: file that tells whether it is asleep; 0 before it is opened
 * @begun: it is at what counts
 * @done: it is through with that
 *
 * Looking takes no lock of mm, and needs no memory that was not used before: it
 * can be done while others have stopped with locks.
 */
struct progress {
	int state;
	bool begun;
	bool done;
};

/* For the thread itself; the first is only needed if beginning must not open. */
void progress_open(struct progress *progress);
void progress_begin(struct progress *progress);
void progress_end(struct progress *progress);

/*
 * For the others. Let the thread come as far as it can: to its end, or to where
 * it waits. Is it through?
 */
bool progress_wait(const struct progress *progress);
bool progress_is_done(const struct progress *progress);
/* After it was joined. */
void progress_close(struct progress *progress);

/* Give a file to who has the other end of a socket: 0 or -errno. */
int send_fd(int sock, int fd);
/* The file, or -1. */
int receive_fd(int sock);

/**
 * struct gate - lets two processes wait for each other
 * @pipe: a byte each way
 */
struct gate {
	int pipe[2];
};

/* A gate is shared with children that are forked after it was made. */
int gate_init(struct gate *gate);
/* Let one waiter through; a gate that nobody waits at stays open for one. */
void gate_open(struct gate *gate);
/* 0, or -EPIPE if nobody is left who could open it. */
int gate_wait(struct gate *gate);

#endif /* _DEVEXCL_UTIL_H */
