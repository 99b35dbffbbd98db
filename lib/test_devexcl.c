// SPDX-License-Identifier: GPL-2.0
/*
 * An emulated device that takes pages for itself
 *
 * A GPU that runs atomic operations on shared virtual memory needs a page for
 * itself for a moment: no CPU and no other device may touch it meanwhile. The
 * kernel grants this with make_device_exclusive(). This is a device that asks
 * for it, made of software, for testing the kernel and as an example for
 * authors of drivers. The ABI is in <uapi/linux/test_devexcl_uapi.h>.
 *
 * An open file is a context, the device's view of one address space. A context
 * mirrors ranges of addresses; each mirror has a device page table and an
 * interval notifier, by which mm tells the device to let go of pages.
 *
 * The rule that everything rests on
 * ---------------------------------
 *
 *	see that the page is there, or fault it in for writing (1)
 *	sample the notifier's sequence (2)
 *	make the page device-exclusive: its folio is locked and referenced
 *	take the page table's lock
 *	has the sequence moved? undo, start again
 *	install the mapping
 *	drop the page table's lock
 *	unlock the folio and drop the reference (3)
 *
 * (1) comes before (2): if the page is device-exclusive already, of another
 * device or of ours that has let go of it, the kernel restores it first, and
 * says so with an event that is nobody's own. That moves the sequence; a loop
 * that sampled before would find it moved each time, and never end. Most pages
 * are there, and to see that takes a small part of the time that faulting in
 * does; but who has to start again does not rely on it.
 *
 * (2) The kernel announces the conversion itself with MMU_NOTIFY_EXCLUSIVE and
 * the owner that we gave it. That one event we ignore, else this loop would
 * not end either. The owner must not be NULL: up to Linux 6.14 the event that
 * takes a page back is MMU_NOTIFY_EXCLUSIVE with a NULL owner, and a filter
 * that matches it leaves the device with a page that is the CPU's again.
 *
 * (3) The device keeps no reference. Its mapping is good until the notifier
 * takes it away, which happens before the page can go anywhere: the notifier
 * waits for the page table's lock, and every access of the device to the page
 * is made under that lock.
 *
 * Locks, outermost first: devexcl_ctx.mirror_lock, mmap_lock, folio lock,
 * devexcl_mirror_range.lock, devexcl_ctx.unit[], devexcl_ring.lock; and
 * devexcl_device.job_lock, then devexcl_ring.lock. The notifier
 * takes the mirror's lock with mm's locks held, perhaps in reclaim; so nobody
 * who holds it allocates memory that may wait for reclaim, touches user memory,
 * or takes mm's locks.
 */
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/anon_inodes.h>
#include <linux/compat.h>
#include <linux/debugfs.h>
#include <linux/delay.h>
#include <linux/eventfd.h>
#include <linux/fault-inject.h>
#include <linux/file.h>
#include <linux/fs.h>
#include <linux/hash.h>
#include <linux/highmem.h>
#include <linux/hmm.h>
#include <linux/kcov.h>
#include <linux/kref.h>
#include <linux/kthread.h>
#include <linux/log2.h>
#include <linux/maple_tree.h>
#include <linux/math64.h>
#include <linux/memcontrol.h>
#include <linux/miscdevice.h>
#include <linux/mm.h>
#include <linux/mmu_notifier.h>
#include <linux/module.h>
#include <linux/pagemap.h>
#include <linux/poll.h>
#include <linux/rwsem.h>
#include <linux/sched/mm.h>
#include <linux/sched/signal.h>
#include <linux/slab.h>
#include <linux/uaccess.h>
#include <linux/xarray.h>

#include <uapi/linux/test_devexcl_uapi.h>

#include "test_devexcl_compat.h"
#include "test_devexcl_ioctl.h"

#define CREATE_TRACE_POINTS
#include "test_devexcl_trace.h"

#define DEVEXCL_MAX_DEVICES	16
#define DEVEXCL_MAX_MIRRORS	1024
#define DEVEXCL_MAX_EVENTS	4096
#define DEVEXCL_MAX_GAP_NS	(1000 * 1000)
#define DEVEXCL_MAX_BREAKPOINTS	64
#define DEVEXCL_MAX_ENGINES	16
#define DEVEXCL_MAX_JOBS	16

/* Nobody stops at a breakpoint for longer. */
#define DEVEXCL_MAX_STOP	(10 * HZ)

/* Times that work is begun anew, with no progress, before it is -EBUSY. */
#define DEVEXCL_MAX_ROUNDS	1000

/* Pages faulted in at once, and between two looks for a signal. */
#define DEVEXCL_BATCH_PAGES	64
/* Operations copied in at once. */
#define DEVEXCL_BATCH_OPS	64
/* Operations of a job between two looks at the address space's users. */
#define DEVEXCL_BATCH_JOB	256
/* Page infos copied out at once. */
#define DEVEXCL_BATCH_INFOS	16
/* Event records copied out at once. */
#define DEVEXCL_BATCH_EVENTS	4

#define DEVEXCL_UNIT_BITS	6

static unsigned int ndevices = 2;
module_param(ndevices, uint, 0444);
MODULE_PARM_DESC(ndevices, "Number of emulated devices (default 2, at most "
		 __stringify(DEVEXCL_MAX_DEVICES) ")");

static unsigned int nengines = 4;
module_param(nengines, uint, 0444);
MODULE_PARM_DESC(nengines, "Number of engines of a device (default 4, at most "
		 __stringify(DEVEXCL_MAX_ENGINES) ")");

/**
 * struct devexcl_engine - a thread that runs jobs; there is none before the
 *	first one
 * @device: the device
 * @id: number in @device->engines
 * @task: the thread
 * @ops: room for DEVEXCL_BATCH_JOB operations
 * @wait: where the thread is idle
 * @queue: jobs that come next
 * @running: the job that it works on, or NULL
 * @load: jobs queued or running
 *
 * All but the first two and @wait is protected by @device->job_lock, and may
 * be looked at without it by the thread itself.
 */
struct devexcl_engine {
	struct devexcl_device *device;
	unsigned int id;
	struct task_struct *task;
	struct devexcl_atomic_op *ops;
	wait_queue_head_t wait;
	struct list_head queue;
	struct devexcl_job *running;
	unsigned int load;
};

/**
 * struct devexcl_device - one emulated device
 * @misc: its node
 * @name: name of the node
 * @id: N of /dev/devexclN
 * @engine_lock: serializes the making of threads
 * @job_lock: queues, states of jobs, lists of jobs of contexts
 * @engines: run jobs
 */
struct devexcl_device {
	struct miscdevice misc;
	char name[24];
	unsigned int id;
	struct mutex engine_lock;	/* makes threads */
	spinlock_t job_lock;		/* queues and states of jobs */
	struct devexcl_engine engines[DEVEXCL_MAX_ENGINES];
};

static struct devexcl_device devexcl_devices[DEVEXCL_MAX_DEVICES];

/*
 * An entry of the device page table is the struct page and these bits. A
 * struct page is aligned to more than they need.
 */
enum {
	DEVEXCL_PTE_READ_BIT,
	DEVEXCL_PTE_WRITE_BIT,
	DEVEXCL_PTE_EXCLUSIVE_BIT,
	DEVEXCL_PTE_DIRTY_BIT,
	DEVEXCL_PTE_KEPT_BIT,	/* broken driver: we hold a reference */
	DEVEXCL_PTE_BITS,
};

#define DEVEXCL_PTE_READ	BIT(DEVEXCL_PTE_READ_BIT)
#define DEVEXCL_PTE_WRITE	BIT(DEVEXCL_PTE_WRITE_BIT)
#define DEVEXCL_PTE_EXCLUSIVE	BIT(DEVEXCL_PTE_EXCLUSIVE_BIT)
#define DEVEXCL_PTE_DIRTY	BIT(DEVEXCL_PTE_DIRTY_BIT)
#define DEVEXCL_PTE_KEPT	BIT(DEVEXCL_PTE_KEPT_BIT)
#define DEVEXCL_PTE_FLAGS	GENMASK(DEVEXCL_PTE_BITS - 1, 0)

#define DEVEXCL_PTE_RWX							\
	(DEVEXCL_PTE_READ | DEVEXCL_PTE_WRITE | DEVEXCL_PTE_EXCLUSIVE)

#define DEVEXCL_LEAF_SHIFT	8
#define DEVEXCL_LEAF_PAGES	BIT(DEVEXCL_LEAF_SHIFT)

/**
 * struct devexcl_leaf - a piece of a device page table
 * @index: its place: number of its first page >> DEVEXCL_LEAF_SHIFT
 * @pte: entries; 0: nothing is mapped
 * @since: low half of the number of the event that was newest when mapped; not
 *	valid while nothing is
 */
struct devexcl_leaf {
	unsigned long index;
	unsigned long pte[DEVEXCL_LEAF_PAGES];
	u32 since[DEVEXCL_LEAF_PAGES];
};

static struct kmem_cache *devexcl_leaf_cache;

/**
 * struct devexcl_ring - event records that nobody has read yet
 * @lock: innermost of all
 * @wait: readers and pollers
 * @events: the records
 * @head: records ever put in
 * @tail: records ever taken out
 * @shown: records ever shown to a reader: these do not change
 * @seq: number of the newest record
 * @lost: records that did not fit since the last one that did
 */
struct devexcl_ring {
	spinlock_t lock;	/* protects all of it */
	wait_queue_head_t wait;
	struct devexcl_event *events;
	unsigned int head;
	unsigned int tail;
	unsigned int shown;
	u64 seq;
	u64 lost;
};

/* Counters of a context that only ever grow. */
struct devexcl_counters {
	atomic64_t acquired;
	atomic64_t released;
	atomic64_t own;
	atomic64_t retries;
	atomic64_t ops;
	atomic64_t bytes_copied;
	atomic64_t events_lost;
	atomic64_t jobs_submitted;
	atomic64_t jobs_completed;
	atomic64_t jobs_cancelled;
	atomic64_t calls[DEVEXCL_CAUSE_NR];
	atomic64_t lost[DEVEXCL_CAUSE_NR];
	atomic64_t errors[DEVEXCL_ERROR_NR];
};

/**
 * struct devexcl_ctx - an open file: the device's view of an address space
 * @file: the file; it is its private data that we are
 * @device: the device
 * @mm: the address space; the structure is held, its users are not
 * @mirrors: mirrored ranges, by address
 * @mirror_lock: serializes changes of @mirrors
 * @nr_mirrors: number of them; under @mirror_lock
 * @next_id: of the next mirror; under @mirror_lock
 * @unit: atomic units: operations on one page go through the same one
 * @ring: event stream
 * @count: counters
 * @held: pages mapped exclusively
 * @mapped: pages mapped otherwise
 * @leaves: pieces of page tables
 * @broken: DEVEXCL_BROKEN_*
 * @inject_retries: times to pretend that the sequence moved
 * @fail_nth: places of &enum devexcl_fault to come to until one fails, or 0
 * @failed: the one that did
 * @breakpoint_lock: innermost
 * @breakpoints: armed, and nobody has come; under @breakpoint_lock
 * @nr_breakpoints: breakpoints, armed or not; changed under @breakpoint_lock
 * @jobs: those that nobody has waited for; under @device->job_lock
 * @nr_jobs: number of them; likewise
 * @nr_active: number of those that have not ended; likewise
 * @last_job: id of the newest one; likewise
 * @job_wait: for the end of a job
 */
struct devexcl_ctx {
	struct file *file;
	struct devexcl_device *device;
	struct mm_struct *mm;
	struct maple_tree mirrors;
	struct mutex mirror_lock;	/* changes of mirrors */
	unsigned int nr_mirrors;
	u32 next_id;
	/* held for the length of an operation */
	struct mutex unit[BIT(DEVEXCL_UNIT_BITS)];
	struct devexcl_ring ring;
	struct devexcl_counters count;
	atomic64_t held;
	atomic64_t mapped;
	atomic64_t leaves;
	unsigned int broken;
	atomic_t inject_retries;
	atomic_t fail_nth;
	enum devexcl_fault failed;
	spinlock_t breakpoint_lock;	/* protects the list, and states */
	struct list_head breakpoints;
	unsigned int nr_breakpoints;
	struct list_head jobs;
	unsigned int nr_jobs;
	unsigned int nr_active;
	u32 last_job;
	wait_queue_head_t job_wait;
};

/**
 * struct devexcl_mirror_range - a mirrored range
 * @ctx: the context; outlives the mirror
 * @notifier: mm calls devexcl_invalidate() through it
 * @start: first byte
 * @end: byte after the last
 * @id: what user space knows it by
 * @quiet: own notifier calls stay out of the event stream
 * @ref: one for @ctx->mirrors, one for each user at work
 * @rcu: for lookups without a lock
 * @lock: the page table's lock. For writing: to change entries, and to check
 *	or set the notifier's sequence. For reading: to use entries, and to set
 *	the dirty bit
 * @table: leaves by page number >> DEVEXCL_LEAF_SHIFT; a leaf stays until the
 *	mirror goes
 * @recent: the leaf in which an entry was installed last; under @lock
 * @dead: nothing may be mapped any more; under @lock
 */
struct devexcl_mirror_range {
	struct devexcl_ctx *ctx;
	struct mmu_interval_notifier notifier;
	unsigned long start;
	unsigned long end;
	u32 id;
	bool quiet;
	struct kref ref;
	struct rcu_head rcu;
	struct rw_semaphore lock;
	struct xarray table;
	struct devexcl_leaf *recent;
	bool dead;
};

/* Events */

static unsigned int devexcl_ring_used(const struct devexcl_ring *ring)
{
	return ring->head - ring->tail;
}

static struct devexcl_event *devexcl_ring_slot(struct devexcl_ring *ring,
					       unsigned int n)
{
	return &ring->events[n % DEVEXCL_MAX_EVENTS];
}

static void devexcl_ring_put(struct devexcl_ring *ring,
			     const struct devexcl_event *event)
{
	struct devexcl_event *slot = devexcl_ring_slot(ring, ring->head++);

	lockdep_assert_held(&ring->lock);
	*slot = *event;
	slot->seq = ++ring->seq;
	slot->time_ns = ktime_get_ns();
}

/* Say in the stream that records are missing at this place. */
static void devexcl_ring_put_lost(struct devexcl_ring *ring)
{
	struct devexcl_event event = {
		.type = DEVEXCL_EVENT_LOST,
		.lost = ring->lost,
	};

	ring->lost = 0;
	devexcl_ring_put(ring, &event);
}

/* Return: number of the newest record, which is this one unless it was lost. */
static u64 devexcl_record(struct devexcl_ctx *ctx,
			  const struct devexcl_event *event)
{
	struct devexcl_ring *ring = &ctx->ring;
	unsigned int want;
	u64 seq;

	spin_lock(&ring->lock);
	want = ring->lost ? 2 : 1;
	if (devexcl_ring_used(ring) + want > DEVEXCL_MAX_EVENTS) {
		ring->lost++;
		atomic64_inc(&ctx->count.events_lost);
	} else {
		if (ring->lost)
			devexcl_ring_put_lost(ring);
		devexcl_ring_put(ring, event);
	}
	seq = ring->seq;
	spin_unlock(&ring->lock);
	/* Nobody sleeps while there is a record that he has not read. */
	if (wq_has_sleeper(&ring->wait))
		wake_up_interruptible(&ring->wait);
	return seq;
}

/*
 * A run of pages that is acquired or mapped one by one makes one record,
 * as long as nothing came in between and nobody has read it.
 */
static bool devexcl_ring_extend(struct devexcl_ring *ring, u32 type, u32 mirror,
				unsigned long addr)
{
	struct devexcl_event *last = devexcl_ring_slot(ring, ring->head - 1);

	lockdep_assert_held(&ring->lock);
	if (!devexcl_ring_used(ring) || ring->lost || ring->shown == ring->head)
		return false;
	if (last->type != type || last->mirror != mirror || last->end != addr)
		return false;

	last->end += PAGE_SIZE;
	if (type == DEVEXCL_EVENT_ACQUIRE)
		last->exclusive++;
	else
		last->shared++;
	return true;
}

/* Return: number of the record that says that a page was acquired or mapped. */
static u64 devexcl_record_page(struct devexcl_ctx *ctx, u32 type, u32 mirror,
			       unsigned long addr)
{
	struct devexcl_ring *ring = &ctx->ring;
	struct devexcl_event event;
	bool extended;
	u64 seq;

	spin_lock(&ring->lock);
	extended = devexcl_ring_extend(ring, type, mirror, addr);
	seq = ring->seq;
	spin_unlock(&ring->lock);
	if (extended)
		return seq;

	event = (struct devexcl_event) {
		.type = type,
		.mirror = mirror,
		.start = addr,
		.end = addr + PAGE_SIZE,
		.exclusive = type == DEVEXCL_EVENT_ACQUIRE,
		.shared = type == DEVEXCL_EVENT_MAP,
	};
	return devexcl_record(ctx, &event);
}

/* Copy the oldest records, @tail on; they stay as they are until taken. */
static unsigned int devexcl_ring_show(struct devexcl_ring *ring,
				      struct devexcl_event *events,
				      unsigned int nr, unsigned int *tail)
{
	unsigned int i;

	spin_lock(&ring->lock);
	if (!devexcl_ring_used(ring) && ring->lost)
		devexcl_ring_put_lost(ring);
	nr = min(nr, devexcl_ring_used(ring));
	for (i = 0; i < nr; i++)
		events[i] = *devexcl_ring_slot(ring, ring->tail + i);
	*tail = ring->tail;
	ring->shown = ring->tail + nr;
	spin_unlock(&ring->lock);
	return nr;
}

/* Take records that were shown, if no other reader has. */
static bool devexcl_ring_take(struct devexcl_ring *ring, unsigned int nr,
			      unsigned int tail)
{
	bool mine;

	spin_lock(&ring->lock);
	mine = ring->tail == tail;
	if (mine)
		ring->tail += nr;
	spin_unlock(&ring->lock);
	return mine;
}

static bool devexcl_ring_readable(struct devexcl_ring *ring)
{
	bool readable;

	spin_lock(&ring->lock);
	readable = devexcl_ring_used(ring) || ring->lost;
	spin_unlock(&ring->lock);
	return readable;
}

static u64 devexcl_ring_seq(struct devexcl_ring *ring)
{
	u64 seq;

	spin_lock(&ring->lock);
	seq = ring->seq;
	spin_unlock(&ring->lock);
	return seq;
}

static int devexcl_count_error(struct devexcl_ctx *ctx, int error)
{
	enum devexcl_error which;

	switch (error) {
	case -EFAULT:
		which = DEVEXCL_ERROR_EFAULT;
		break;
	case -EOPNOTSUPP:
		which = DEVEXCL_ERROR_EOPNOTSUPP;
		break;
	case -EBUSY:
		which = DEVEXCL_ERROR_EBUSY;
		break;
	case -EINTR:
		which = DEVEXCL_ERROR_EINTR;
		break;
	case -ENOMEM:
		which = DEVEXCL_ERROR_ENOMEM;
		break;
	case -EINVAL:
		which = DEVEXCL_ERROR_EINVAL;
		break;
	case -ENXIO:
		which = DEVEXCL_ERROR_ENXIO;
		break;
	case -EACCES:
		which = DEVEXCL_ERROR_EACCES;
		break;
	default:
		which = DEVEXCL_ERROR_OTHER;
		break;
	}
	atomic64_inc(&ctx->count.errors[which]);
	return error;
}

/* Faults on demand */

static DECLARE_FAULT_ATTR(devexcl_fault_attr);
static struct dentry *devexcl_fault_dir;

/* Has anybody asked the kernel's fault injection for faults? Few people do. */
static __always_inline bool devexcl_kernel_fails(void)
{
#ifdef CONFIG_FAULT_INJECTION
	if (likely(!READ_ONCE(devexcl_fault_attr.probability) &&
		   !READ_ONCE(current->fail_nth)))
		return false;
#endif
	return should_fail(&devexcl_fault_attr, 1);
}

/**
 * devexcl_fails() - is the device to fail here?
 * @ctx: the context, or NULL if there is none yet
 * @fault: what would fail
 *
 * Asked at every place where something can fail, so that each error path can
 * be tried: by DEVEXCL_INJECT, or by the kernel's fault injection.
 */
static __always_inline bool devexcl_fails(struct devexcl_ctx *ctx,
					  enum devexcl_fault fault)
{
	if (ctx && unlikely(atomic_read(&ctx->fail_nth)) &&
	    !atomic_dec_if_positive(&ctx->fail_nth)) {
		WRITE_ONCE(ctx->failed, fault);
		return true;
	}
	return devexcl_kernel_fails();
}

static int devexcl_copy_in(struct devexcl_ctx *ctx, void *to,
			   const void __user *from, size_t size)
{
	if (devexcl_fails(ctx, DEVEXCL_FAULT_COPY_IN) ||
	    copy_from_user(to, from, size))
		return -EFAULT;
	return 0;
}

static int devexcl_copy_out(struct devexcl_ctx *ctx, void __user *to,
			    const void *from, size_t size)
{
	if (devexcl_fails(ctx, DEVEXCL_FAULT_COPY_OUT) ||
	    copy_to_user(to, from, size))
		return -EFAULT;
	return 0;
}

static int devexcl_lock_mirrors(struct devexcl_ctx *ctx)
{
	if (devexcl_fails(ctx, DEVEXCL_FAULT_LOCK) ||
	    mutex_lock_killable(&ctx->mirror_lock))
		return -EINTR;
	return 0;
}

static int devexcl_lock_mm(struct devexcl_ctx *ctx)
{
	if (devexcl_fails(ctx, DEVEXCL_FAULT_LOCK) ||
	    mmap_read_lock_killable(ctx->mm))
		return -EINTR;
	return 0;
}

/* Broken drivers */

#define DEVEXCL_BROKEN_MODES						\
	(DEVEXCL_BROKEN_NO_RETRY | DEVEXCL_BROKEN_NO_OWNER_FILTER |	\
	 DEVEXCL_BROKEN_NO_DIRTY | DEVEXCL_BROKEN_IGNORE_INVALIDATE |	\
	 DEVEXCL_BROKEN_UNLOCK_INSTALL | DEVEXCL_BROKEN_UNLOCK_STORE |	\
	 DEVEXCL_BROKEN_KEEP_RELEASED | DEVEXCL_BROKEN_COMMON_OWNER |	\
	 DEVEXCL_BROKEN_NO_OWNER | DEVEXCL_BROKEN_SAMPLE_EARLY |	\
	 DEVEXCL_BROKEN_OFF_BY_ONE | DEVEXCL_BROKEN_FALSE_SUCCESS)

static bool devexcl_broken(const struct devexcl_ctx *ctx, unsigned int mode)
{
	return unlikely(READ_ONCE(ctx->broken) & mode);
}

/* Does a broken driver keep a page that it should let go for @event? */
static bool devexcl_keeps(const struct devexcl_mirror_range *mirror,
			  unsigned long pte, unsigned long addr,
			  const struct devexcl_event *event)
{
	const struct devexcl_ctx *ctx = mirror->ctx;

	if (likely(!READ_ONCE(ctx->broken)) || mirror->dead)
		return false;
	if (event->type == DEVEXCL_EVENT_RELEASE)
		return devexcl_broken(ctx, DEVEXCL_BROKEN_KEEP_RELEASED);
	if (devexcl_broken(ctx, DEVEXCL_BROKEN_IGNORE_INVALIDATE))
		return true;
	if (devexcl_broken(ctx, DEVEXCL_BROKEN_OFF_BY_ONE))
		return event->end - event->start > PAGE_SIZE &&
		       event->end - addr == PAGE_SIZE;
	/* What it thinks that it has released it does not look for. */
	return pte & DEVEXCL_PTE_KEPT &&
	       devexcl_broken(ctx, DEVEXCL_BROKEN_KEEP_RELEASED);
}

/* Device page table */

static struct page *devexcl_pte_page(unsigned long pte)
{
	return (struct page *)(pte & ~DEVEXCL_PTE_FLAGS);
}

/* Number of a page within its mirror. */
static unsigned long devexcl_index(const struct devexcl_mirror_range *mirror,
				   unsigned long addr)
{
	return (addr - mirror->start) >> PAGE_SHIFT;
}

static struct devexcl_leaf *devexcl_leaf(struct devexcl_mirror_range *mirror,
					 unsigned long addr)
{
	unsigned long index = devexcl_index(mirror, addr) >> DEVEXCL_LEAF_SHIFT;
	struct devexcl_leaf *recent = mirror->recent;

	lockdep_assert_held(&mirror->lock);
	if (recent && recent->index == index)
		return recent;
	return xa_load(&mirror->table, index);
}

/* The entry of a page, or NULL if its leaf was never needed. */
static unsigned long *devexcl_pte(struct devexcl_mirror_range *mirror,
				  unsigned long addr)
{
	struct devexcl_leaf *leaf = devexcl_leaf(mirror, addr);

	if (!leaf)
		return NULL;
	return &leaf->pte[devexcl_index(mirror, addr) % DEVEXCL_LEAF_PAGES];
}

/* The entry of a page if it grants all of @access, else NULL. */
static unsigned long *devexcl_pte_allowing(struct devexcl_mirror_range *mirror,
					   unsigned long addr,
					   unsigned long access)
{
	unsigned long *pte = devexcl_pte(mirror, addr);

	return pte && (*pte & access) == access ? pte : NULL;
}

/*
 * Make sure that entries can be installed for [addr, end): under the page
 * table's lock nothing can be allocated.
 */
static int devexcl_table_reserve(struct devexcl_mirror_range *mirror,
				 unsigned long addr, unsigned long end)
{
	unsigned long index = devexcl_index(mirror, addr) >> DEVEXCL_LEAF_SHIFT;
	unsigned long last = devexcl_index(mirror, end - 1) >>
			     DEVEXCL_LEAF_SHIFT;

	for (; index <= last; index++) {
		struct devexcl_leaf *leaf;
		void *old;

		if (xa_load(&mirror->table, index))
			continue;
		if (devexcl_fails(mirror->ctx, DEVEXCL_FAULT_TABLE))
			return -ENOMEM;
		leaf = kmem_cache_alloc(devexcl_leaf_cache, GFP_KERNEL_ACCOUNT);
		if (!leaf)
			return -ENOMEM;
		leaf->index = index;
		memset(leaf->pte, 0, sizeof(leaf->pte));
		old = xa_cmpxchg(&mirror->table, index, NULL, leaf,
				 GFP_KERNEL_ACCOUNT);
		if (old)	/* another thread's, or an error */
			kmem_cache_free(devexcl_leaf_cache, leaf);
		else
			atomic64_inc(&mirror->ctx->leaves);
		if (xa_is_err(old))
			return xa_err(old);
	}
	return 0;
}

/* An entry is about to be replaced or dropped. */
static void devexcl_pte_uncount(struct devexcl_ctx *ctx, unsigned long pte)
{
	if (pte & DEVEXCL_PTE_EXCLUSIVE)
		atomic64_dec(&ctx->held);
	else
		atomic64_dec(&ctx->mapped);
	if (pte & DEVEXCL_PTE_KEPT)
		put_page(devexcl_pte_page(pte));
}

static void devexcl_pte_install(struct devexcl_mirror_range *mirror,
				unsigned long addr, struct page *page,
				unsigned long access)
{
	struct devexcl_leaf *leaf = devexcl_leaf(mirror, addr);
	unsigned long slot = devexcl_index(mirror, addr) % DEVEXCL_LEAF_PAGES;
	struct devexcl_ctx *ctx = mirror->ctx;
	unsigned long old = leaf->pte[slot];
	u32 type = DEVEXCL_EVENT_MAP;

	lockdep_assert_held_write(&mirror->lock);
	if (old) {
		/* If not, mm has changed the page and not told us: a kernel bug. */
		WARN_ON_ONCE(!((old | access) & DEVEXCL_PTE_KEPT) &&
			     devexcl_pte_page(old) != page);
		devexcl_pte_uncount(ctx, old);
	}

	if (access & DEVEXCL_PTE_EXCLUSIVE) {
		type = DEVEXCL_EVENT_ACQUIRE;
		atomic64_inc(&ctx->held);
		if (!(old & DEVEXCL_PTE_EXCLUSIVE))	/* kept by a broken mode */
			atomic64_inc(&ctx->count.acquired);
	} else {
		atomic64_inc(&ctx->mapped);
	}
	mirror->recent = leaf;
	leaf->pte[slot] = (unsigned long)page | access |
			  (old & DEVEXCL_PTE_DIRTY);
	leaf->since[slot] = devexcl_record_page(ctx, type, mirror->id, addr);
}

static void devexcl_mark_dirty(const struct devexcl_ctx *ctx,
			       struct folio *folio)
{
	if (!devexcl_broken(ctx, DEVEXCL_BROKEN_NO_DIRTY))
		folio_mark_dirty(folio);
}

static void devexcl_pte_drop(struct devexcl_mirror_range *mirror,
			     unsigned long *pte)
{
	struct folio *folio = page_folio(devexcl_pte_page(*pte));
	struct devexcl_ctx *ctx = mirror->ctx;

	/* The CPU did not see our writes; tell mm before we let go. */
	if (*pte & DEVEXCL_PTE_DIRTY &&
	    (folio_test_anon(folio) || !(*pte & DEVEXCL_PTE_KEPT)))
		devexcl_mark_dirty(ctx, folio);

	devexcl_pte_uncount(ctx, *pte);
	*pte = 0;
}

/*
 * A broken driver keeps the page. It must not become somebody else's. And if it
 * is of a file, this is the last moment at which it may be marked dirty: what
 * is written to it from now on is lost.
 */
static void devexcl_pte_keep(const struct devexcl_ctx *ctx, unsigned long *pte)
{
	struct page *page = devexcl_pte_page(*pte);

	if (*pte & DEVEXCL_PTE_DIRTY && !PageAnon(page)) {
		devexcl_mark_dirty(ctx, page_folio(page));
		*pte &= ~DEVEXCL_PTE_DIRTY;
	}
	if (*pte & DEVEXCL_PTE_KEPT)
		return;
	get_page(page);
	*pte |= DEVEXCL_PTE_KEPT;
}

/*
 * Let go of all pages in [start, end), and note in @event how many they were.
 */
static void devexcl_table_drop(struct devexcl_mirror_range *mirror,
			       unsigned long start, unsigned long end,
			       struct devexcl_event *event)
{
	unsigned long first = devexcl_index(mirror, start);
	unsigned long last = devexcl_index(mirror, end - 1);
	struct devexcl_leaf *leaf;
	unsigned long index;

	lockdep_assert_held_write(&mirror->lock);
	xa_for_each_range(&mirror->table, index, leaf,
			  first >> DEVEXCL_LEAF_SHIFT,
			  last >> DEVEXCL_LEAF_SHIFT) {
		unsigned long base = index << DEVEXCL_LEAF_SHIFT;
		unsigned long i = max(first, base) - base;
		unsigned long n = min(last - base, DEVEXCL_LEAF_PAGES - 1);

		for (; i <= n; i++) {
			unsigned long *pte = &leaf->pte[i];
			unsigned long addr = mirror->start +
					     ((base + i) << PAGE_SHIFT);
			bool keep;

			if (!*pte)
				continue;
			keep = devexcl_keeps(mirror, *pte, addr, event);
			if (keep)
				devexcl_pte_keep(mirror->ctx, pte);
			if (keep && event->type != DEVEXCL_EVENT_RELEASE)
				continue;
			if (*pte & DEVEXCL_PTE_EXCLUSIVE)
				event->exclusive++;
			else
				event->shared++;
			if (!keep)
				devexcl_pte_drop(mirror, pte);
		}
	}
}

static void devexcl_table_free(struct devexcl_mirror_range *mirror)
{
	struct devexcl_leaf *leaf;
	unsigned long index;

	xa_for_each(&mirror->table, index, leaf) {
		kmem_cache_free(devexcl_leaf_cache, leaf);
		atomic64_dec(&mirror->ctx->leaves);
	}
	xa_destroy(&mirror->table);
}

/* Calls */

union devexcl_args {
	struct devexcl_info info;
	struct devexcl_mirror mirror;
	struct devexcl_acquire acquire;
	struct devexcl_release release;
	struct devexcl_atomic atomic;
	struct devexcl_copy copy;
	struct devexcl_query query;
	struct devexcl_stats stats;
	struct devexcl_inject inject;
	struct devexcl_breakpoint breakpoint;
	struct devexcl_submit submit;
	struct devexcl_wait wait;
	struct devexcl_cancel cancel;
	struct devexcl_floor floor;
};

/**
 * struct devexcl_call - an ioctl at work
 * @args: what it was given, and answers
 * @file: a file that goes with the answer, or NULL
 * @fd: the number that is reserved for it
 * @job: a job that is forgotten when the caller knows of its end, or NULL
 */
struct devexcl_call {
	union devexcl_args args;
	struct file *file;
	int fd;
	struct devexcl_job *job;
};

/*
 * Make a file that the caller gets if the answer reaches him.
 *
 * Return: its number, or a negative errno.
 */
static int devexcl_make_file(struct devexcl_call *call, const char *name,
			     const struct file_operations *fops, void *data)
{
	struct file *file;
	int fd;

	fd = get_unused_fd_flags(O_CLOEXEC);
	if (fd < 0)
		return fd;
	file = anon_inode_getfile(name, fops, data, O_RDONLY);
	if (IS_ERR(file)) {
		put_unused_fd(fd);
		return PTR_ERR(file);
	}
	call->file = file;
	call->fd = fd;
	return fd;
}

/* Breakpoints */

enum devexcl_breakpoint_state {
	DEVEXCL_ARMED,		/* nobody has come */
	DEVEXCL_STOPPED,	/* somebody waits there */
	DEVEXCL_WENT_ON,	/* he did not want to wait any longer */
	DEVEXCL_CLOSED,		/* he may go on */
};

/**
 * struct devexcl_stop - a breakpoint
 * @ctx: the context; the breakpoint's file holds it
 * @node: in @ctx->breakpoints, while armed
 * @ref: one of the file, one of who has stopped
 * @wait: the one who has stopped, and those who poll the file
 * @state: changed under @ctx->breakpoint_lock
 * @point: where
 * @pass: how often to go by
 * @start: first byte of the pages it is about
 * @end: byte after the last
 */
struct devexcl_stop {
	struct devexcl_ctx *ctx;
	struct list_head node;
	struct kref ref;
	wait_queue_head_t wait;
	enum devexcl_breakpoint_state state;
	enum devexcl_point point;
	u32 pass;
	unsigned long start;
	unsigned long end;
};

static void devexcl_stop_free(struct kref *ref)
{
	kfree(container_of(ref, struct devexcl_stop, ref));
}

static void devexcl_stop_set(struct devexcl_stop *stop,
			     enum devexcl_breakpoint_state state)
{
	struct devexcl_ctx *ctx = stop->ctx;

	spin_lock(&ctx->breakpoint_lock);
	list_del_init(&stop->node);
	if (stop->state != DEVEXCL_CLOSED)
		WRITE_ONCE(stop->state, state);
	spin_unlock(&ctx->breakpoint_lock);
	wake_up_all(&stop->wait);
}

/* The breakpoint that is due, with a reference, or NULL. */
static struct devexcl_stop *devexcl_stop_find(struct devexcl_ctx *ctx,
					      enum devexcl_point point,
					      unsigned long start,
					      unsigned long end)
{
	struct devexcl_stop *stop, *found = NULL;

	spin_lock(&ctx->breakpoint_lock);
	list_for_each_entry(stop, &ctx->breakpoints, node) {
		if (stop->point != point || stop->end <= start ||
		    stop->start >= end)
			continue;
		if (stop->pass) {
			stop->pass--;
			continue;
		}
		found = stop;
		kref_get(&found->ref);
		list_del_init(&found->node);
		WRITE_ONCE(found->state, DEVEXCL_STOPPED);
		break;
	}
	spin_unlock(&ctx->breakpoint_lock);
	return found;
}

/* There are breakpoints; is one of them due? */
static noinline void devexcl_stop(struct devexcl_ctx *ctx,
				  enum devexcl_point point,
				  unsigned long start, unsigned long end)
{
	struct devexcl_stop *stop = devexcl_stop_find(ctx, point, start, end);

	if (!stop)
		return;
	wake_up_all(&stop->wait);
	if (wait_event_killable_timeout(stop->wait,
					READ_ONCE(stop->state) == DEVEXCL_CLOSED,
					DEVEXCL_MAX_STOP) <= 0)
		devexcl_stop_set(stop, DEVEXCL_WENT_ON);
	kref_put(&stop->ref, devexcl_stop_free);
}

/**
 * devexcl_point() - a place where the device can be stopped
 * @ctx: the context
 * @point: the place
 * @start: first byte of what this is about
 * @end: byte after the last
 *
 * Context: May sleep, for some seconds at most, with whatever locks are held:
 *	that is what it is for. Ends early when the task is killed.
 */
static __always_inline void devexcl_point(struct devexcl_ctx *ctx,
					  enum devexcl_point point,
					  unsigned long start,
					  unsigned long end)
{
	if (unlikely(READ_ONCE(ctx->nr_breakpoints)))
		devexcl_stop(ctx, point, start, end);
}

/*
 * The same in a notifier, where nobody may be kept who has memory to free, nor
 * who exits: he cannot be killed any more.
 */
static void devexcl_point_notifier(struct devexcl_ctx *ctx,
				   enum devexcl_point point,
				   const struct mmu_notifier_range *range)
{
	if (mmu_notifier_range_blockable(range) &&
	    !(current->flags & (PF_KTHREAD | PF_MEMALLOC | PF_EXITING)))
		devexcl_point(ctx, point, range->start, range->end);
}

static __poll_t devexcl_stop_poll(struct file *file,
				  struct poll_table_struct *wait)
{
	struct devexcl_stop *stop = file->private_data;

	poll_wait(file, &stop->wait, wait);
	switch (READ_ONCE(stop->state)) {
	case DEVEXCL_STOPPED:
		return EPOLLIN | EPOLLRDNORM;
	case DEVEXCL_WENT_ON:
		return EPOLLHUP;
	default:
		return 0;
	}
}

/*
 * Any close counts, not only the last one: a fork() that has stopped has a
 * table of files already, which nobody else can close.
 */
static int devexcl_stop_flush(struct file *file, fl_owner_t id)
{
	devexcl_stop_set(file->private_data, DEVEXCL_CLOSED);
	return 0;
}

/* Make room for one more, or for one less. */
static bool devexcl_stop_count(struct devexcl_ctx *ctx, int change)
{
	bool room;

	spin_lock(&ctx->breakpoint_lock);
	room = ctx->nr_breakpoints + change <= DEVEXCL_MAX_BREAKPOINTS;
	if (room)
		WRITE_ONCE(ctx->nr_breakpoints, ctx->nr_breakpoints + change);
	spin_unlock(&ctx->breakpoint_lock);
	return room;
}

static int devexcl_stop_release(struct inode *inode, struct file *file)
{
	struct devexcl_stop *stop = file->private_data;
	struct devexcl_ctx *ctx = stop->ctx;

	devexcl_stop_set(stop, DEVEXCL_CLOSED);	/* if nobody ever had it */
	devexcl_stop_count(ctx, -1);
	kref_put(&stop->ref, devexcl_stop_free);
	fput(ctx->file);
	return 0;
}

static const struct file_operations devexcl_stop_fops = {
	.owner = THIS_MODULE,
	.poll = devexcl_stop_poll,
	.flush = devexcl_stop_flush,
	.release = devexcl_stop_release,
};

/* Notifier */

static enum devexcl_cause
devexcl_cause(const struct mmu_notifier_range *range)
{
	switch (range->event) {
	case MMU_NOTIFY_UNMAP:
		return DEVEXCL_CAUSE_UNMAP;
	case MMU_NOTIFY_CLEAR:
		return DEVEXCL_CAUSE_CLEAR;
	case MMU_NOTIFY_PROTECTION_VMA:
		return DEVEXCL_CAUSE_PROTECTION_VMA;
	case MMU_NOTIFY_PROTECTION_PAGE:
		return DEVEXCL_CAUSE_PROTECTION_PAGE;
	case MMU_NOTIFY_SOFT_DIRTY:
		return DEVEXCL_CAUSE_SOFT_DIRTY;
	case MMU_NOTIFY_RELEASE:
		return DEVEXCL_CAUSE_RELEASE;
	case MMU_NOTIFY_MIGRATE:
		return DEVEXCL_CAUSE_MIGRATE;
	case MMU_NOTIFY_EXCLUSIVE:
		return DEVEXCL_CAUSE_EXCLUSIVE;
	default:
		return DEVEXCL_CAUSE_OTHER;
	}
}

/* Who makes pages exclusive: the context itself, if it is not broken. */
static void *devexcl_own_name(struct devexcl_ctx *ctx)
{
	if (devexcl_broken(ctx, DEVEXCL_BROKEN_NO_OWNER))
		return NULL;
	if (devexcl_broken(ctx, DEVEXCL_BROKEN_COMMON_OWNER))
		return devexcl_devices;
	return ctx;
}

/* The owner has a meaning only for MMU_NOTIFY_EXCLUSIVE and _MIGRATE. */
static enum devexcl_owner
devexcl_owner(struct devexcl_ctx *ctx, const struct mmu_notifier_range *range)
{
	if (range->event != MMU_NOTIFY_EXCLUSIVE)
		return DEVEXCL_OWNER_NONE;
	if (range->owner == devexcl_own_name(ctx))
		return DEVEXCL_OWNER_OWN;
	return range->owner ? DEVEXCL_OWNER_FOREIGN : DEVEXCL_OWNER_NONE;
}

/**
 * devexcl_invalidate() - mm needs pages in a range; let go of them
 * @notifier: of the mirror
 * @range: what is going to happen to which addresses
 * @cur_seq: the sequence to set
 *
 * Whatever the reason is, the device forgets the pages, with one exception:
 * the event that its own make_device_exclusive() sends.
 *
 * Context: With mm's locks held, perhaps in reclaim. Must not sleep if the
 *	range is not blockable.
 * Return: false if this would have had to sleep and must not.
 */
static bool devexcl_invalidate(struct mmu_interval_notifier *notifier,
			       const struct mmu_notifier_range *range,
			       unsigned long cur_seq)
{
	struct devexcl_mirror_range *mirror =
		container_of(notifier, struct devexcl_mirror_range, notifier);
	struct devexcl_ctx *ctx = mirror->ctx;
	struct devexcl_event event = {
		.type = DEVEXCL_EVENT_INVALIDATE,
		.cause = devexcl_cause(range),
		.owner = devexcl_owner(ctx, range),
		.mirror = mirror->id,
		.start = max(range->start, mirror->start),
		.end = min(range->end, mirror->end),
	};

	if (event.owner == DEVEXCL_OWNER_OWN &&
	    !devexcl_broken(ctx, DEVEXCL_BROKEN_NO_OWNER_FILTER)) {
		atomic64_inc(&ctx->count.own);
		trace_devexcl_revoke(ctx, event.start, event.end, event.cause,
				     event.owner, 0);
		if (!mirror->quiet)
			devexcl_record(ctx, &event);
		return true;
	}

	devexcl_point_notifier(ctx, DEVEXCL_POINT_INVALIDATE, range);
	if (mmu_notifier_range_blockable(range))
		down_write(&mirror->lock);
	else if (!down_write_trylock(&mirror->lock))
		return false;

	mmu_interval_set_seq(notifier, cur_seq);
	devexcl_table_drop(mirror, event.start, event.end, &event);
	atomic64_inc(&ctx->count.calls[event.cause]);
	atomic64_add(event.exclusive, &ctx->count.lost[event.cause]);
	trace_devexcl_revoke(ctx, event.start, event.end, event.cause,
			     event.owner, event.exclusive);
	devexcl_record(ctx, &event);
	up_write(&mirror->lock);
	devexcl_point_notifier(ctx, DEVEXCL_POINT_INVALIDATED, range);
	return true;
}

static const struct mmu_interval_notifier_ops devexcl_notifier_ops = {
	.invalidate = devexcl_invalidate,
};

/*
 * Has the sequence moved since it was sampled? If not, what was looked up in
 * the meantime is good for as long as the page table's lock is held.
 */
static bool devexcl_seq_moved(struct devexcl_mirror_range *mirror,
			      unsigned long seq)
{
	struct devexcl_ctx *ctx = mirror->ctx;

	lockdep_assert_held_write(&mirror->lock);
	if (atomic_dec_if_positive(&ctx->inject_retries) >= 0 ||
	    devexcl_fails(ctx, DEVEXCL_FAULT_SEQUENCE))
		return true;
	return mmu_interval_read_retry(&mirror->notifier, seq);
}

/* Mirrors */

static void devexcl_mirror_release(struct kref *ref)
{
	struct devexcl_mirror_range *mirror =
		container_of(ref, struct devexcl_mirror_range, ref);

	devexcl_table_free(mirror);
	kfree_rcu(mirror, rcu);
}

static void devexcl_mirror_put(struct devexcl_mirror_range *mirror)
{
	if (mirror)
		kref_put(&mirror->ref, devexcl_mirror_release);
}

/* The mirror that @addr is in, or NULL. Drop it with devexcl_mirror_put(). */
static struct devexcl_mirror_range *devexcl_mirror_get(struct devexcl_ctx *ctx,
						       unsigned long addr)
{
	struct devexcl_mirror_range *mirror;

	rcu_read_lock();
	mirror = mtree_load(&ctx->mirrors, addr);
	if (mirror && !kref_get_unless_zero(&mirror->ref))
		mirror = NULL;
	rcu_read_unlock();
	return mirror;
}

static int devexcl_check_range(u64 addr, u64 length)
{
	if (!length || !PAGE_ALIGNED(addr) || !PAGE_ALIGNED(length))
		return -EINVAL;
	if (addr + length < addr)
		return -EOVERFLOW;
	return 0;
}

/* The mirror that holds all of a range of bytes. */
static struct devexcl_mirror_range *
devexcl_mirror_get_range(struct devexcl_ctx *ctx, u64 addr, u64 length)
{
	struct devexcl_mirror_range *mirror = devexcl_mirror_get(ctx, addr);

	if (mirror && length > mirror->end - addr) {
		devexcl_mirror_put(mirror);
		mirror = NULL;
	}
	return mirror ?: ERR_PTR(-ENXIO);
}

static struct devexcl_mirror_range *
devexcl_mirror_get_pages(struct devexcl_ctx *ctx, u64 addr, u64 length)
{
	int ret = devexcl_check_range(addr, length);

	if (ret)
		return ERR_PTR(ret);
	return devexcl_mirror_get_range(ctx, addr, length);
}

/*
 * Take a mirror down. The entries are dropped while the notifier still
 * guarantees that their pages are the right ones, and @dead keeps new ones
 * out until it is gone.
 */
static void devexcl_mirror_remove(struct devexcl_mirror_range *mirror)
{
	struct devexcl_event event = {
		.type = DEVEXCL_EVENT_RELEASE,
		.mirror = mirror->id,
		.start = mirror->start,
		.end = mirror->end,
	};

	down_write(&mirror->lock);
	WRITE_ONCE(mirror->dead, true);
	devexcl_table_drop(mirror, mirror->start, mirror->end, &event);
	atomic64_add(event.exclusive, &mirror->ctx->count.released);
	devexcl_record(mirror->ctx, &event);
	up_write(&mirror->lock);

	mmu_interval_notifier_remove(&mirror->notifier);
	devexcl_mirror_put(mirror);
}

static int devexcl_mirror_add(struct devexcl_ctx *ctx,
			      struct devexcl_mirror_range *mirror)
{
	int ret;

	lockdep_assert_held(&ctx->mirror_lock);
	if (ctx->nr_mirrors >= DEVEXCL_MAX_MIRRORS)
		return -ENOSPC;

	/*
	 * Visible in the tree means that the notifier works; so it comes
	 * first, and overlapping mirrors must be found before that.
	 */
	if (mt_find(&ctx->mirrors, &(unsigned long){ mirror->start },
		    mirror->end - 1))
		return -EEXIST;
	mirror->id = ctx->next_id;
	if (devexcl_fails(ctx, DEVEXCL_FAULT_NOTIFIER))
		return -ENOMEM;
	ret = mmu_interval_notifier_insert(&mirror->notifier, ctx->mm,
					   mirror->start,
					   mirror->end - mirror->start,
					   &devexcl_notifier_ops);
	if (ret)
		return ret;
	ret = -ENOMEM;
	if (!devexcl_fails(ctx, DEVEXCL_FAULT_TREE))
		ret = mtree_insert_range(&ctx->mirrors, mirror->start,
					 mirror->end - 1, mirror,
					 GFP_KERNEL_ACCOUNT);
	if (ret) {
		mmu_interval_notifier_remove(&mirror->notifier);
		return ret;
	}
	ctx->next_id++;
	ctx->nr_mirrors++;
	return 0;
}

static int devexcl_ioctl_mirror(struct devexcl_ctx *ctx, void *data)
{
	struct devexcl_mirror *arg = data;
	struct devexcl_mirror_range *mirror;
	int ret;

	if (arg->reserved)
		return -EINVAL;
	ret = devexcl_check_range(arg->addr, arg->length);
	if (ret)
		return ret;
	if (arg->addr + arg->length > ctx->mm->task_size)
		return -EFAULT;

	if (devexcl_fails(ctx, DEVEXCL_FAULT_MIRROR))
		return -ENOMEM;
	mirror = kzalloc(sizeof(*mirror), GFP_KERNEL_ACCOUNT);
	if (!mirror)
		return -ENOMEM;
	mirror->ctx = ctx;
	mirror->start = arg->addr;
	mirror->end = arg->addr + arg->length;
	mirror->quiet = arg->flags & DEVEXCL_MIRROR_QUIET;
	kref_init(&mirror->ref);
	init_rwsem(&mirror->lock);
	xa_init_flags(&mirror->table, XA_FLAGS_ACCOUNT);

	ret = devexcl_lock_mirrors(ctx);
	if (!ret) {
		ret = devexcl_mirror_add(ctx, mirror);
		mutex_unlock(&ctx->mirror_lock);
	}
	if (ret) {
		devexcl_mirror_put(mirror);
		return ret;
	}
	arg->id = mirror->id;
	return 0;
}

/* Take the mirror of exactly [start, end) out of the tree. */
static struct devexcl_mirror_range *
devexcl_mirror_take(struct devexcl_ctx *ctx, unsigned long start,
		    unsigned long end)
{
	struct devexcl_mirror_range *mirror = mtree_load(&ctx->mirrors, start);

	lockdep_assert_held(&ctx->mirror_lock);
	if (!mirror || mirror->start != start || mirror->end != end)
		return ERR_PTR(-ENXIO);

	/* Even this may need memory, and does not say if there was none. */
	if (!devexcl_fails(ctx, DEVEXCL_FAULT_TREE))
		mtree_erase(&ctx->mirrors, start);
	if (mtree_load(&ctx->mirrors, start))
		return ERR_PTR(-ENOMEM);
	ctx->nr_mirrors--;
	return mirror;
}

static int devexcl_ioctl_unmirror(struct devexcl_ctx *ctx, void *data)
{
	struct devexcl_mirror *arg = data;
	struct devexcl_mirror_range *mirror;
	int ret;

	if (arg->reserved)
		return -EINVAL;
	ret = devexcl_check_range(arg->addr, arg->length);
	if (ret)
		return ret;
	if (devexcl_broken(ctx, DEVEXCL_BROKEN_KEEP_RELEASED))
		return 0;

	ret = devexcl_lock_mirrors(ctx);
	if (ret)
		return ret;
	mirror = devexcl_mirror_take(ctx, arg->addr, arg->addr + arg->length);
	mutex_unlock(&ctx->mirror_lock);
	if (IS_ERR(mirror))
		return PTR_ERR(mirror);

	arg->id = mirror->id;
	devexcl_mirror_remove(mirror);
	return 0;
}

/* Exclusive access */

/*
 * Make sure that pages from @addr on are ordinary present pages, as @gup_flags
 * (FOLL_*) say: everything that mm has to do to get there, it does here, before
 * the sequence is sampled.
 *
 * This may wait for a userfaultfd handler, without the mmap_lock, killable.
 *
 * Return: number of pages, at least one, or a negative errno.
 */
static long devexcl_fault_in(struct devexcl_mirror_range *mirror,
			     unsigned long addr, unsigned long nr,
			     unsigned int gup_flags)
{
	struct devexcl_ctx *ctx = mirror->ctx;
	int locked;
	long got;

	do {
		if (fatal_signal_pending(current) || devexcl_lock_mm(ctx))
			return -EINTR;
		locked = 1;
		got = -EFAULT;
		if (!devexcl_fails(ctx, DEVEXCL_FAULT_GUP))
			got = devexcl_gup_remote(ctx->mm, addr, nr, gup_flags,
						 NULL, &locked);
		if (locked)
			mmap_read_unlock(ctx->mm);
	} while (!got);
	if (got > 0)
		devexcl_point(ctx, DEVEXCL_POINT_FAULTED, addr,
			      addr + got * PAGE_SIZE);
	return got;
}

/*
 * How many pages from @addr on are what devexcl_fault_in() would make of them?
 * Nothing is done to them: if there are some, there is nothing to do.
 *
 * Return: number of pages, or a negative errno.
 */
static long devexcl_look(struct devexcl_mirror_range *mirror,
			 unsigned long addr, unsigned long nr)
{
	const unsigned long mask = HMM_PFN_VALID | HMM_PFN_WRITE | HMM_PFN_ERROR;
	unsigned long pfns[DEVEXCL_BATCH_PAGES] = { };
	struct devexcl_ctx *ctx = mirror->ctx;
	struct hmm_range range = {
		.notifier = &mirror->notifier,
		/* Without waiting for whoever is at it: only a look. */
		.notifier_seq = READ_ONCE(mirror->notifier.invalidate_seq),
		.start = addr,
		.end = addr + nr * PAGE_SIZE,
		.hmm_pfns = pfns,
	};
	unsigned long i;
	bool fails;

	if (devexcl_lock_mm(ctx))
		return -EINTR;
	fails = devexcl_fails(ctx, DEVEXCL_FAULT_GUP);
	/* If it has to be begun anew, it is not worth it. */
	if (fails || hmm_range_fault(&range))
		nr = 0;
	mmap_read_unlock(ctx->mm);
	if (fails)
		return -EFAULT;

	for (i = 0; i < nr; i++) {
		if ((pfns[i] & mask) != (HMM_PFN_VALID | HMM_PFN_WRITE))
			break;
		/* One entry for many pages: it has to be split. */
		if (hmm_pfn_to_map_order(pfns[i]))
			break;
	}
	if (i)
		devexcl_point(ctx, DEVEXCL_POINT_FAULTED, addr,
			      addr + i * PAGE_SIZE);
	return i;
}

/*
 * A broken driver does not know whether this is the page any more. So that the
 * kernel does not come to harm, we do: it stays referenced if it is not.
 */
static void devexcl_install_anyway(struct devexcl_mirror_range *mirror,
				   unsigned long addr, struct page *page,
				   unsigned long seq)
{
	unsigned long access = DEVEXCL_PTE_RWX;

	if (mmu_interval_read_retry(&mirror->notifier, seq)) {
		get_page(page);
		access |= DEVEXCL_PTE_KEPT;
	}
	devexcl_pte_install(mirror, addr, page, access);
}

/*
 * A broken driver has seen that the sequence had not moved, and drops its locks
 * before it installs the page. The folio stays unlocked.
 */
static int devexcl_install_unlocked(struct devexcl_mirror_range *mirror,
				    unsigned long addr, struct page *page,
				    unsigned long seq)
{
	up_write(&mirror->lock);
	folio_unlock(page_folio(page));
	devexcl_point(mirror->ctx, DEVEXCL_POINT_INSTALL, addr,
		      addr + PAGE_SIZE);
	down_write(&mirror->lock);
	if (mirror->dead)
		return -ENXIO;
	devexcl_install_anyway(mirror, addr, page, seq);
	return 0;
}

/*
 * Make one page exclusive and install it, under a sequence sampled before.
 *
 * Return: 0, -EAGAIN if the sequence has moved, or another negative errno.
 */
static int devexcl_acquire_page(struct devexcl_mirror_range *mirror,
				unsigned long addr, unsigned long seq)
{
	struct devexcl_ctx *ctx = mirror->ctx;
	unsigned long end = addr + PAGE_SIZE;
	struct folio *folio;
	struct page *page;
	bool locked = true;
	int ret;

	devexcl_point(ctx, DEVEXCL_POINT_SAMPLED, addr, end);
	ret = devexcl_lock_mm(ctx);
	if (ret)
		return ret;
	page = ERR_PTR(-EBUSY);
	if (!devexcl_fails(ctx, DEVEXCL_FAULT_EXCLUSIVE))
		page = devexcl_make_exclusive(ctx->mm, addr,
					      devexcl_own_name(ctx), &folio);
	if (!IS_ERR(page))
		devexcl_point(ctx, DEVEXCL_POINT_MADE, addr, end);
	mmap_read_unlock(ctx->mm);
	if (IS_ERR(page)) {
		ret = PTR_ERR(page);
		goto out;
	}

	devexcl_point(ctx, DEVEXCL_POINT_CHECK, addr, end);
	down_write(&mirror->lock);
	if (mirror->dead) {
		ret = -ENXIO;
	} else if (devexcl_broken(ctx, DEVEXCL_BROKEN_NO_RETRY)) {
		devexcl_point(ctx, DEVEXCL_POINT_INSTALL, addr, end);
		devexcl_install_anyway(mirror, addr, page, seq);
	} else if (devexcl_seq_moved(mirror, seq)) {
		ret = -EAGAIN;
	} else if (devexcl_broken(ctx, DEVEXCL_BROKEN_UNLOCK_INSTALL)) {
		ret = devexcl_install_unlocked(mirror, addr, page, seq);
		locked = false;
	} else {
		devexcl_point(ctx, DEVEXCL_POINT_INSTALL, addr, end);
		devexcl_pte_install(mirror, addr, page, DEVEXCL_PTE_RWX);
	}
	up_write(&mirror->lock);

	/*
	 * Up to here the folio lock kept CPUs from taking the page back. If
	 * we did not install it, the next touch restores the entry.
	 */
	if (locked)
		folio_unlock(folio);
	folio_put(folio);
out:
	trace_devexcl_acquire(ctx, addr, ret);
	return ret;
}

/*
 * One round: as many pages as can be had until something comes in between. It
 * is the first one, @round 0, that takes pages as they are.
 *
 * Return: number of pages, at least one, -EAGAIN if the sequence moved before
 * the first, or another negative errno.
 */
static long devexcl_acquire_round(struct devexcl_mirror_range *mirror,
				  unsigned long addr, unsigned long nr,
				  unsigned int round)
{
	bool early = devexcl_broken(mirror->ctx, DEVEXCL_BROKEN_SAMPLE_EARLY);
	unsigned long seq;
	long got, i;
	int ret = 0;

	if (early)
		seq = mmu_interval_read_begin(&mirror->notifier);
	/* Mapped writable, by a page table entry each; say if it is poisoned. */
	got = round ? 0 : devexcl_look(mirror, addr, nr);
	if (!got)
		got = devexcl_fault_in(mirror, addr, nr, FOLL_WRITE |
				       FOLL_SPLIT_PMD | FOLL_HWPOISON);
	if (got < 0)
		return got;
	/* Not before: a leaf is paid for by pages that are there. */
	ret = devexcl_table_reserve(mirror, addr, addr + got * PAGE_SIZE);
	if (ret)
		return ret;

	if (!early)
		seq = mmu_interval_read_begin(&mirror->notifier);
	for (i = 0; i < got; i++) {
		ret = devexcl_acquire_page(mirror, addr + i * PAGE_SIZE, seq);
		if (ret)
			break;
	}

	switch (ret) {
	case -EAGAIN:
		if (i)	/* else our caller counts it */
			atomic64_inc(&mirror->ctx->count.retries);
		break;
	case -EFAULT:
		/* It was there. If it is gone, the next fault-in says so. */
		ret = -EAGAIN;
		break;
	case -EEXIST:
		/* Mapped, but as a PFN that has no page. */
		ret = -EFAULT;
		break;
	}
	return i ?: ret;
}

/* How many pages from @addr on the device holds, or does not hold. */
static unsigned long devexcl_run(struct devexcl_mirror_range *mirror,
				 unsigned long addr, unsigned long nr,
				 bool held)
{
	unsigned long index = devexcl_index(mirror, addr);
	struct devexcl_leaf *leaf;
	unsigned long i, pte;

	down_read(&mirror->lock);
	leaf = devexcl_leaf(mirror, addr);
	for (i = 0; i < nr; i++, index++) {
		if (i && !(index % DEVEXCL_LEAF_PAGES))
			leaf = devexcl_leaf(mirror, addr + i * PAGE_SIZE);
		pte = leaf ? leaf->pte[index % DEVEXCL_LEAF_PAGES] : 0;
		if (held != !!(pte & DEVEXCL_PTE_EXCLUSIVE))
			break;
	}
	up_read(&mirror->lock);
	return i;
}

/**
 * devexcl_acquire() - get exclusive access to some pages
 * @mirror: where they are
 * @addr: first byte of the first page
 * @nr: how many pages at most, at most DEVEXCL_BATCH_PAGES
 *
 * Context: Process context, no locks held; the mm is the caller's, or has a
 *	user held by the caller.
 * Return: number of pages that the device holds from @addr on, at least one,
 *	or a negative errno: see &struct devexcl_acquire.
 */
static long devexcl_acquire(struct devexcl_mirror_range *mirror,
			    unsigned long addr, unsigned long nr)
{
	unsigned long held = devexcl_run(mirror, addr, nr, true);
	unsigned int round;
	long got;

	/* Faulting in a page that we hold would take it away from us. */
	if (held)
		return held;
	nr = devexcl_run(mirror, addr, nr, false);
	if (!nr)	/* another thread of ours was quicker */
		return 1;

	for (round = 0; round < DEVEXCL_MAX_ROUNDS; round++) {
		got = devexcl_acquire_round(mirror, addr, nr, round);
		if (got != -EAGAIN)
			return got;
		atomic64_inc(&mirror->ctx->count.retries);
		trace_devexcl_retry(mirror->ctx, addr, round);
		if (signal_pending(current))
			return -EINTR;
		cond_resched();
		/* Who competes with others asks for little. */
		nr = 1;
	}
	return -EBUSY;
}

/* Is this an error of one page, after which the next can be tried? */
static bool devexcl_is_page_error(long error)
{
	switch (error) {
	case -EFAULT:
	case -EOPNOTSUPP:
	case -EBUSY:
	case -EHWPOISON:
		return true;
	default:
		return false;
	}
}

static int devexcl_ioctl_acquire(struct devexcl_ctx *ctx, void *data)
{
	struct devexcl_acquire *arg = data;
	s32 __user *status = u64_to_user_ptr(arg->status);
	u64 nr_pages = arg->length >> PAGE_SHIFT;
	struct devexcl_mirror_range *mirror;
	long got = 0;
	s32 error;

	arg->done = 0;
	arg->acquired = 0;
	mirror = devexcl_mirror_get_pages(ctx, arg->addr, arg->length);
	if (IS_ERR(mirror))
		return PTR_ERR(mirror);

	while (arg->done < nr_pages) {
		unsigned long nr = min_t(u64, nr_pages - arg->done,
					 DEVEXCL_BATCH_PAGES);

		/* Find out that we cannot report before there is anything. */
		if (status && (devexcl_fails(ctx, DEVEXCL_FAULT_COPY_OUT) ||
			       clear_user(status + arg->done,
					  nr * sizeof(*status)))) {
			got = -EFAULT;
			break;
		}
		got = signal_pending(current) ? -EINTR :
		      devexcl_acquire(mirror,
				      arg->addr + (arg->done << PAGE_SHIFT),
				      nr);
		if (got > 0) {
			arg->done += got;
			arg->acquired += got;
		} else if (devexcl_is_page_error(got) &&
			   devexcl_broken(ctx, DEVEXCL_BROKEN_FALSE_SUCCESS)) {
			arg->done++;
			arg->acquired++;
		} else {
			devexcl_count_error(ctx, got);
			error = got;
			if (!status || !devexcl_is_page_error(got) ||
			    devexcl_copy_out(ctx, status + arg->done, &error,
					     sizeof(error)))
				break;
			arg->done++;
		}
		cond_resched();
	}
	devexcl_mirror_put(mirror);
	return arg->done ? 0 : got;
}

static int devexcl_ioctl_release(struct devexcl_ctx *ctx, void *data)
{
	struct devexcl_release *arg = data;
	struct devexcl_mirror_range *mirror;
	struct devexcl_event event = { .type = DEVEXCL_EVENT_RELEASE };

	arg->released = 0;
	mirror = devexcl_mirror_get_pages(ctx, arg->addr, arg->length);
	if (IS_ERR(mirror))
		return PTR_ERR(mirror);
	event.mirror = mirror->id;
	event.start = arg->addr;
	event.end = arg->addr + arg->length;

	devexcl_point(ctx, DEVEXCL_POINT_RELEASE, event.start, event.end);
	down_write(&mirror->lock);
	devexcl_table_drop(mirror, event.start, event.end, &event);
	devexcl_record(ctx, &event);
	up_write(&mirror->lock);

	atomic64_add(event.exclusive, &ctx->count.released);
	arg->released = event.exclusive;
	devexcl_mirror_put(mirror);
	return 0;
}

/* Atomic operations */

/* The value that @op makes of @old. All values are zero-extended. */
static u64 devexcl_op_result(const struct devexcl_atomic_op *op, u64 old,
			     u64 operand, u64 compare)
{
	unsigned int sign = 64 - op->width * BITS_PER_BYTE;
	s64 sold = (s64)(old << sign) >> sign;
	s64 soperand = (s64)(operand << sign) >> sign;

	switch (op->op) {
	case DEVEXCL_OP_ADD:
		return old + operand;
	case DEVEXCL_OP_SUB:
		return old - operand;
	case DEVEXCL_OP_AND:
		return old & operand;
	case DEVEXCL_OP_OR:
		return old | operand;
	case DEVEXCL_OP_XOR:
		return old ^ operand;
	case DEVEXCL_OP_XCHG:
		return operand;
	case DEVEXCL_OP_CMPXCHG:
		return old == compare ? operand : old;
	case DEVEXCL_OP_UMIN:
		return min(old, operand);
	case DEVEXCL_OP_UMAX:
		return max(old, operand);
	case DEVEXCL_OP_SMIN:
		return sold < soperand ? old : operand;
	case DEVEXCL_OP_SMAX:
		return sold > soperand ? old : operand;
	case DEVEXCL_OP_INC_WRAP:
		return old >= operand ? 0 : old + 1;
	case DEVEXCL_OP_DEC_WRAP:
		return !old || old > operand ? operand : old - 1;
	}
	return old;	/* not reached: devexcl_op_check() */
}

static u64 devexcl_load(const void *p, unsigned int width)
{
	switch (width) {
	case 1:
		return READ_ONCE(*(const u8 *)p);
	case 2:
		return READ_ONCE(*(const u16 *)p);
	case 4:
		return READ_ONCE(*(const u32 *)p);
	default:
		return READ_ONCE(*(const u64 *)p);
	}
}

static void devexcl_store(void *p, unsigned int width, u64 value)
{
	switch (width) {
	case 1:
		WRITE_ONCE(*(u8 *)p, value);
		break;
	case 2:
		WRITE_ONCE(*(u16 *)p, value);
		break;
	case 4:
		WRITE_ONCE(*(u32 *)p, value);
		break;
	default:
		WRITE_ONCE(*(u64 *)p, value);
		break;
	}
}

/* Return: what was there; it was replaced if it was @old. */
static u64 devexcl_cmpxchg(void *p, unsigned int width, u64 old, u64 new)
{
	switch (width) {
	case 1:
		return cmpxchg((u8 *)p, (u8)old, (u8)new);
	case 2:
		return cmpxchg((u16 *)p, (u16)old, (u16)new);
	case 4:
		return cmpxchg((u32 *)p, (u32)old, (u32)new);
	default:
		return cmpxchg((u64 *)p, old, new);
	}
}

/*
 * Load, gap, store: if anybody else gets at the page meanwhile, an update is
 * lost.
 */
static void devexcl_gap(unsigned int ns)
{
	if (ns >= 20 * 1000)
		usleep_range(ns / 1000, ns / 1000 + 10);
	else if (ns)
		ndelay(ns);
	else
		cpu_relax();
}

/**
 * struct devexcl_batch - operations to be carried out in order
 * @ops: they
 * @nr: how many
 * @flags: DEVEXCL_ATOMIC_*
 * @gap_ns: with DEVEXCL_ATOMIC_GAP, nanoseconds between load and store
 * @nowait: operations from this number on do not wait for pages: EAGAIN
 * @acquired: times that a page had to be acquired first
 * @unlock: a broken driver; it drops the page table's lock in the gap
 */
struct devexcl_batch {
	struct devexcl_atomic_op *ops;
	unsigned int nr;
	u32 flags;
	u32 gap_ns;
	unsigned int nowait;
	u64 acquired;
	bool unlock;
};

static u64 devexcl_op_gap(struct devexcl_mirror_range *mirror,
			  const struct devexcl_atomic_op *op, void *p,
			  u64 operand, u64 compare,
			  const struct devexcl_batch *batch)
{
	struct devexcl_ctx *ctx = mirror->ctx;
	u64 old = devexcl_load(p, op->width);

	if (batch->unlock)
		up_read(&mirror->lock);
	devexcl_gap(batch->gap_ns);
	devexcl_point(ctx, DEVEXCL_POINT_STORE, op->addr, op->addr + op->width);
	devexcl_store(p, op->width,
		      devexcl_op_result(op, old, operand, compare));
	return old;
}

/* The operation as one atomic instruction, as others would see it. */
static u64 devexcl_op_instruction(const struct devexcl_atomic_op *op, void *p,
				  u64 operand, u64 compare)
{
	u64 seen = devexcl_load(p, op->width);
	u64 old;

	do {
		old = seen;
		seen = devexcl_cmpxchg(p, op->width, old,
				       devexcl_op_result(op, old, operand,
							 compare));
	} while (seen != old);
	return old;
}

static int devexcl_op_check(const struct devexcl_atomic_op *op)
{
	if (op->op >= DEVEXCL_OP_NR || op->reserved)
		return -EINVAL;
	if (op->width > 8 || !is_power_of_2(op->width))
		return -EINVAL;
	/* A naturally aligned word cannot straddle a page. */
	if (!IS_ALIGNED(op->addr, op->width))
		return -EINVAL;
	return 0;
}

static void devexcl_op_execute(struct devexcl_mirror_range *mirror,
			       const struct devexcl_batch *batch,
			       struct devexcl_atomic_op *op, void *p)
{
	unsigned int bits = op->width * BITS_PER_BYTE;
	u64 operand = op->operand & GENMASK_ULL(bits - 1, 0);
	u64 compare = op->compare & GENMASK_ULL(bits - 1, 0);

	if (batch->flags & DEVEXCL_ATOMIC_GAP)
		op->old = devexcl_op_gap(mirror, op, p, operand, compare,
					 batch);
	else
		op->old = devexcl_op_instruction(op, p, operand, compare);
	op->error = 0;
	trace_devexcl_atomic(mirror->ctx, op);
}

/*
 * Carry out operation number @i, and those that follow it on the same page,
 * which the device holds.
 *
 * Return: number of the first one that was not carried out.
 */
static unsigned int devexcl_ops_on_page(struct devexcl_mirror_range *mirror,
					unsigned long *pte,
					const struct devexcl_batch *batch,
					unsigned int i)
{
	struct devexcl_ctx *ctx = mirror->ctx;
	struct devexcl_atomic_op *op = &batch->ops[i];
	u64 nr = op->addr >> PAGE_SHIFT;
	struct page *page = devexcl_pte_page(*pte);
	/* Neighbours do not meet, nor do pages a power of two apart. */
	struct mutex *unit = &ctx->unit[hash_64(nr, DEVEXCL_UNIT_BITS)];
	void *base;

	lockdep_assert_held_read(&mirror->lock);
	if (!(*pte & DEVEXCL_PTE_DIRTY))
		set_bit(DEVEXCL_PTE_DIRTY_BIT, pte);
	if (batch->unlock)
		get_page(page);

	mutex_lock(unit);
	base = kmap_local_page(page);
	do {
		devexcl_op_execute(mirror, batch, op,
				   base + offset_in_page(op->addr));
		op = &batch->ops[++i];
	} while (i < batch->nr && op->addr >> PAGE_SHIFT == nr &&
		 !devexcl_op_check(op));
	kunmap_local(base);
	mutex_unlock(unit);
	if (batch->unlock) {
		down_read(&mirror->lock);
		put_page(page);
	}
	return i;
}

/*
 * Carry out operations from number @i on, as long as the device holds their
 * pages: many of them for each time that locks are taken. With gaps it is one
 * only, as mm must not wait for the sum of them.
 *
 * Return: number of the first one that was not carried out.
 */
static unsigned int devexcl_ops_held(struct devexcl_mirror_range *mirror,
				     const struct devexcl_batch *batch,
				     unsigned int i)
{
	struct devexcl_batch part = *batch;

	if (part.flags & DEVEXCL_ATOMIC_GAP) {
		part.nr = i + 1;
		part.unlock = devexcl_broken(mirror->ctx,
					     DEVEXCL_BROKEN_UNLOCK_STORE);
	}
	down_read(&mirror->lock);
	while (i < part.nr) {
		const struct devexcl_atomic_op *op = &part.ops[i];
		unsigned long *pte;

		if (op->addr < mirror->start || op->addr >= mirror->end ||
		    devexcl_op_check(op))
			break;
		pte = devexcl_pte_allowing(mirror, op->addr,
					   DEVEXCL_PTE_EXCLUSIVE);
		if (!pte)
			break;
		i = devexcl_ops_on_page(mirror, pte, &part, i);
	}
	up_read(&mirror->lock);
	return i;
}

/*
 * Carry out at least operation number @i; acquire its page first if need be
 * and wanted.
 *
 * The page may be taken away again before the operation gets to it. That is
 * no error, as long as it does not go on for ever.
 *
 * Return: number of the first one that was not carried out; if that is @i, its
 * error is set.
 */
static unsigned int devexcl_ops_try(struct devexcl_mirror_range *mirror,
				    struct devexcl_batch *batch, unsigned int i)
{
	struct devexcl_atomic_op *op = &batch->ops[i];
	unsigned int round, next;
	long got;

	for (round = 0; round < DEVEXCL_MAX_ROUNDS; round++) {
		next = devexcl_ops_held(mirror, batch, i);
		if (next > i)
			return next;
		op->error = READ_ONCE(mirror->dead) ? -ENXIO : -EACCES;
		if (!(batch->flags & DEVEXCL_ATOMIC_ACQUIRE))
			return i;

		op->error = -EAGAIN;
		if (i >= batch->nowait)
			return i;
		op->error = -EINTR;
		if (signal_pending(current))
			return i;
		got = devexcl_acquire(mirror, op->addr & PAGE_MASK, 1);
		if (got > 0) {
			batch->acquired++;
		} else if (got != -EBUSY) {
			op->error = got;
			return i;
		}
		cond_resched();
	}
	op->error = -EBUSY;
	return i;
}

/*
 * Carry out a batch, and note the result of each operation.
 *
 * Return: how many were carried out; the next one, if any, has its error set.
 */
static unsigned int devexcl_ops_run(struct devexcl_ctx *ctx,
				    struct devexcl_batch *batch)
{
	struct devexcl_mirror_range *mirror = NULL;
	unsigned int i = 0, next;

	for (; i < batch->nr; i = next) {
		struct devexcl_atomic_op *op = &batch->ops[i];

		op->error = devexcl_op_check(op);
		if (!op->error && signal_pending(current))
			op->error = -EINTR;
		if (op->error)
			break;
		if (!mirror || op->addr < mirror->start ||
		    op->addr >= mirror->end) {
			devexcl_mirror_put(mirror);
			mirror = devexcl_mirror_get(ctx, op->addr);
		}
		if (!mirror) {
			op->error = -ENXIO;
			break;
		}
		next = devexcl_ops_try(mirror, batch, i);
		if (next == i)
			break;
	}
	devexcl_mirror_put(mirror);
	return i;
}

static int devexcl_ioctl_atomic(struct devexcl_ctx *ctx, void *data)
{
	struct devexcl_atomic_op __user *uops;
	struct devexcl_atomic *arg = data;
	struct devexcl_atomic_op *ops;
	struct devexcl_batch batch = {
		.flags = arg->flags,
		.gap_ns = arg->gap_ns,
		.nowait = DEVEXCL_BATCH_OPS,
	};
	int ret = 0;

	uops = u64_to_user_ptr(arg->ops);
	arg->done = 0;
	if (arg->reserved || !arg->nr_ops || arg->gap_ns > DEVEXCL_MAX_GAP_NS)
		return -EINVAL;
	if (arg->gap_ns && !(arg->flags & DEVEXCL_ATOMIC_GAP))
		return -EINVAL;

	if (devexcl_fails(ctx, DEVEXCL_FAULT_BUFFER))
		return -ENOMEM;
	ops = kmalloc_array(DEVEXCL_BATCH_OPS, sizeof(*ops), GFP_KERNEL);
	if (!ops)
		return -ENOMEM;
	batch.ops = ops;

	while (!ret && arg->done < arg->nr_ops) {
		unsigned int nr = min_t(u64, arg->nr_ops - arg->done,
					DEVEXCL_BATCH_OPS);
		unsigned int ran, told;

		/* What could not be reported must not be done. */
		ret = devexcl_copy_in(ctx, ops, uops + arg->done,
				      nr * sizeof(*ops));
		if (!ret)
			ret = devexcl_copy_out(ctx, uops + arg->done, ops,
					       nr * sizeof(*ops));
		if (ret)
			break;
		batch.nr = nr;
		ran = devexcl_ops_run(ctx, &batch);
		atomic64_add(ran, &ctx->count.ops);
		told = ran;
		if (ran < nr) {
			told++;
			ret = devexcl_count_error(ctx, ops[ran].error);
		}
		if (devexcl_copy_out(ctx, uops + arg->done, ops,
				     told * sizeof(*ops)))
			ret = -EFAULT;
		arg->done += ran;
		cond_resched();
	}
	kfree(ops);
	return arg->done ? 0 : ret;
}

/* Ordinary access */

/* Map one page for the device as hmm_range_fault() finds it. */
static int devexcl_map_page(struct devexcl_mirror_range *mirror,
			    unsigned long addr, unsigned long access)
{
	struct devexcl_ctx *ctx = mirror->ctx;
	unsigned long pfn = 0;	/* some of its flags are input */
	struct hmm_range range = {
		.notifier = &mirror->notifier,
		.start = addr,
		.end = addr + PAGE_SIZE,
		.hmm_pfns = &pfn,
		.default_flags = HMM_PFN_REQ_FAULT,
	};
	long got;
	int ret;

	if (access & DEVEXCL_PTE_WRITE)
		range.default_flags |= HMM_PFN_REQ_WRITE;

	/* hmm_range_fault() cannot wait for a userfaultfd handler. */
	got = devexcl_fault_in(mirror, addr, 1,
			       access & DEVEXCL_PTE_WRITE ? FOLL_WRITE : 0);
	if (got < 0)
		return got;
	ret = devexcl_table_reserve(mirror, addr, addr + PAGE_SIZE);
	if (ret)
		return ret;

	range.notifier_seq = mmu_interval_read_begin(range.notifier);
	devexcl_point(ctx, DEVEXCL_POINT_SAMPLED, range.start, range.end);
	ret = devexcl_lock_mm(ctx);
	if (ret)
		return ret;
	ret = -EFAULT;
	if (!devexcl_fails(ctx, DEVEXCL_FAULT_HMM))
		ret = hmm_range_fault(&range);
	mmap_read_unlock(ctx->mm);
	if (ret == -EBUSY)
		return -EAGAIN;
	/* -EPERM is for who may not use the context. */
	if (ret)
		return ret == -EPERM ? -EFAULT : ret;

	devexcl_point(ctx, DEVEXCL_POINT_CHECK, range.start, range.end);
	down_write(&mirror->lock);
	if (mirror->dead) {
		ret = -ENXIO;
	} else if (devexcl_seq_moved(mirror, range.notifier_seq)) {
		ret = -EAGAIN;
	} else if (!devexcl_pte_allowing(mirror, addr, access)) {
		devexcl_point(ctx, DEVEXCL_POINT_INSTALL, range.start,
			      range.end);
		devexcl_pte_install(mirror, addr, hmm_pfn_to_page(pfn), access);
	}
	up_write(&mirror->lock);
	return ret;
}

/* Copy between a device page and kernel memory, both within one page. */
static int devexcl_copy_page(struct devexcl_mirror_range *mirror,
			     unsigned long addr, void *buf, unsigned long len,
			     bool write)
{
	unsigned long access = DEVEXCL_PTE_READ;
	unsigned int round;
	int ret;

	if (write)
		access |= DEVEXCL_PTE_WRITE;
	for (round = 0; round < DEVEXCL_MAX_ROUNDS; round++) {
		unsigned long *pte;

		down_read(&mirror->lock);
		pte = devexcl_pte_allowing(mirror, addr, access);
		if (pte && write) {
			memcpy_to_page(devexcl_pte_page(*pte),
				       offset_in_page(addr), buf, len);
			set_bit(DEVEXCL_PTE_DIRTY_BIT, pte);
		} else if (pte) {
			memcpy_from_page(buf, devexcl_pte_page(*pte),
					 offset_in_page(addr), len);
		}
		up_read(&mirror->lock);
		if (pte)
			return 0;

		ret = devexcl_map_page(mirror, addr & PAGE_MASK, access);
		if (ret == -EAGAIN) {
			atomic64_inc(&mirror->ctx->count.retries);
			trace_devexcl_retry(mirror->ctx, addr, round);
		} else if (ret) {
			return ret;
		}
		if (signal_pending(current))
			return -EINTR;
		cond_resched();
	}
	return -EBUSY;
}

static int devexcl_copy_some(struct devexcl_mirror_range *mirror,
			     unsigned long addr, void __user *ubuf, void *buf,
			     unsigned long len, bool write)
{
	int ret;

	if (signal_pending(current))
		return -EINTR;
	if (write) {
		ret = devexcl_copy_in(mirror->ctx, buf, ubuf, len);
		if (ret)
			return ret;
	}
	ret = devexcl_copy_page(mirror, addr, buf, len, write);
	if (!ret && !write)
		ret = devexcl_copy_out(mirror->ctx, ubuf, buf, len);
	return ret;
}

static int devexcl_ioctl_copy(struct devexcl_ctx *ctx, void *data)
{
	struct devexcl_copy *arg = data;
	struct devexcl_mirror_range *mirror;
	void *buf = NULL;
	int ret = 0;

	arg->copied = 0;
	if (!arg->length)
		return -EINVAL;
	if (arg->addr + arg->length < arg->addr)
		return -EOVERFLOW;
	mirror = devexcl_mirror_get_range(ctx, arg->addr, arg->length);
	if (IS_ERR(mirror))
		return PTR_ERR(mirror);
	if (!devexcl_fails(ctx, DEVEXCL_FAULT_BUFFER))
		buf = (void *)__get_free_page(GFP_KERNEL);
	if (!buf)
		ret = -ENOMEM;

	while (!ret && arg->copied < arg->length) {
		unsigned long addr = arg->addr + arg->copied;
		unsigned long len = min_t(u64, arg->length - arg->copied,
					  PAGE_SIZE - offset_in_page(addr));

		ret = devexcl_copy_some(mirror, addr,
					u64_to_user_ptr(arg->buf + arg->copied),
					buf, len,
					arg->flags & DEVEXCL_COPY_WRITE);
		if (!ret)
			arg->copied += len;
		cond_resched();
	}
	if (ret)
		devexcl_count_error(ctx, ret);
	atomic64_add(arg->copied, &ctx->count.bytes_copied);
	free_page((unsigned long)buf);
	devexcl_mirror_put(mirror);
	return arg->copied ? 0 : ret;
}

/* Benchmark */

/*
 * Make some pages exclusive, and no more. Nobody is told where they are, so
 * nothing has to be undone: the next touch restores each of them.
 *
 * Return: number of pages, at least one, or a negative errno.
 */
static long devexcl_floor(struct devexcl_ctx *ctx, unsigned long addr,
			  unsigned long nr)
{
	struct folio *folio;
	struct page *page;
	unsigned long i;
	long ret = 0;

	if (devexcl_lock_mm(ctx))
		return -EINTR;
	for (i = 0; i < nr; i++) {
		page = devexcl_make_exclusive(ctx->mm, addr + i * PAGE_SIZE,
					      ctx, &folio);
		if (IS_ERR(page)) {
			ret = PTR_ERR(page);
			break;
		}
		folio_unlock(folio);
		folio_put(folio);
	}
	mmap_read_unlock(ctx->mm);
	/* Mapped, but as a PFN that has no page. */
	return i ?: ret == -EEXIST ? -EFAULT : ret;
}

static int devexcl_ioctl_floor(struct devexcl_ctx *ctx, void *data)
{
	struct devexcl_floor *arg = data;
	u64 nr_pages = arg->length >> PAGE_SHIFT;
	struct devexcl_mirror_range *mirror;
	u64 start = ktime_get_ns();
	long got = 0;

	arg->done = 0;
	arg->ns = 0;
	mirror = devexcl_mirror_get_pages(ctx, arg->addr, arg->length);
	if (IS_ERR(mirror))
		return PTR_ERR(mirror);

	while (arg->done < nr_pages) {
		got = signal_pending(current) ? -EINTR :
		      devexcl_floor(ctx,
				    arg->addr + (arg->done << PAGE_SHIFT),
				    min_t(u64, nr_pages - arg->done,
					  DEVEXCL_BATCH_PAGES));
		if (got < 0)
			break;
		arg->done += got;
		cond_resched();
	}
	arg->ns = ktime_get_ns() - start;
	devexcl_mirror_put(mirror);
	return arg->done ? 0 : got;
}

/* Looking at the device */

static void devexcl_page_info(struct devexcl_mirror_range *mirror,
			      unsigned long addr, struct devexcl_page *info)
{
	struct devexcl_leaf *leaf = devexcl_leaf(mirror, addr);
	unsigned long slot = devexcl_index(mirror, addr) % DEVEXCL_LEAF_PAGES;
	struct folio *folio;
	struct page *page;
	u64 seq;

	lockdep_assert_held(&mirror->lock);
	memset(info, 0, sizeof(*info));
	if (!leaf || !leaf->pte[slot])
		return;

	/* Nobody takes the page away while we hold the lock. */
	page = devexcl_pte_page(leaf->pte[slot]);
	folio = page_folio(page);
	info->access = leaf->pte[slot] &
		       (DEVEXCL_ACCESS_READ | DEVEXCL_ACCESS_WRITE |
			DEVEXCL_ACCESS_EXCLUSIVE | DEVEXCL_ACCESS_DIRTY);
	info->order = folio_order(folio);
	info->pfn = page_to_pfn(page);
	info->refcount = folio_ref_count(folio);
	info->mapcount = devexcl_folio_mapcount(folio);
	/* The newest number that ends in the 32 bits that were kept. */
	seq = devexcl_ring_seq(&mirror->ctx->ring);
	info->since = seq - (u32)((u32)seq - leaf->since[slot]);
}

static int devexcl_ioctl_query(struct devexcl_ctx *ctx, void *data)
{
	struct devexcl_page infos[DEVEXCL_BATCH_INFOS];
	struct devexcl_query *arg = data;
	struct devexcl_page __user *uinfos = u64_to_user_ptr(arg->pages);
	u64 nr_pages = arg->length >> PAGE_SHIFT;
	struct devexcl_mirror_range *mirror;
	int ret = 0;

	/* The ABI's bits are the page table's. */
	BUILD_BUG_ON(DEVEXCL_ACCESS_READ != DEVEXCL_PTE_READ);
	BUILD_BUG_ON(DEVEXCL_ACCESS_WRITE != DEVEXCL_PTE_WRITE);
	BUILD_BUG_ON(DEVEXCL_ACCESS_EXCLUSIVE != DEVEXCL_PTE_EXCLUSIVE);
	BUILD_BUG_ON(DEVEXCL_ACCESS_DIRTY != DEVEXCL_PTE_DIRTY);

	arg->done = 0;
	mirror = devexcl_mirror_get_pages(ctx, arg->addr, arg->length);
	if (IS_ERR(mirror))
		return PTR_ERR(mirror);

	while (arg->done < nr_pages) {
		unsigned long addr = arg->addr + (arg->done << PAGE_SHIFT);
		unsigned int nr = min_t(u64, nr_pages - arg->done,
					ARRAY_SIZE(infos));
		unsigned int i;

		down_read(&mirror->lock);
		for (i = 0; i < nr; i++)
			devexcl_page_info(mirror, addr + i * PAGE_SIZE,
					  &infos[i]);
		up_read(&mirror->lock);

		ret = devexcl_copy_out(ctx, uinfos + arg->done, infos,
				       nr * sizeof(*infos));
		if (ret)
			break;
		arg->done += nr;
		if (signal_pending(current)) {
			ret = -EINTR;
			break;
		}
		cond_resched();
	}
	devexcl_mirror_put(mirror);
	return arg->done ? 0 : ret;
}

static int devexcl_ioctl_info(struct devexcl_ctx *ctx, void *data)
{
	struct devexcl_info *arg = data;

	arg->abi_version = DEVEXCL_ABI_VERSION;
	arg->device = ctx->device->id;
	arg->ndevices = ndevices;
	arg->page_size = PAGE_SIZE;
	arg->max_mirrors = DEVEXCL_MAX_MIRRORS;
	arg->max_events = DEVEXCL_MAX_EVENTS;
	arg->max_gap_ns = DEVEXCL_MAX_GAP_NS;
	arg->restore_cause = DEVEXCL_RESTORE_CAUSE;
	arg->caps = DEVEXCL_CAPS;
	arg->ops = GENMASK_ULL(DEVEXCL_OP_NR - 1, 0);
	arg->broken = DEVEXCL_BROKEN_MODES;
	arg->points = GENMASK_ULL(DEVEXCL_POINT_NR - 1, 0);
	arg->faults = GENMASK_ULL(DEVEXCL_FAULT_NR - 1, 0);
	arg->nengines = nengines;
	arg->max_jobs = DEVEXCL_MAX_JOBS;
	arg->patterns = GENMASK_ULL(DEVEXCL_PATTERN_NR - 1, 0);
	return 0;
}

static int devexcl_ioctl_stats(struct devexcl_ctx *ctx, void *data)
{
	struct devexcl_counters *count = &ctx->count;
	struct devexcl_stats *arg = data;
	int i;

	arg->mirrors = READ_ONCE(ctx->nr_mirrors);
	arg->held = atomic64_read(&ctx->held);
	arg->mapped = atomic64_read(&ctx->mapped);
	arg->table_bytes = atomic64_read(&ctx->leaves) *
			   sizeof(struct devexcl_leaf);
	arg->acquired = atomic64_read(&count->acquired);
	arg->released = atomic64_read(&count->released);
	arg->own = atomic64_read(&count->own);
	arg->retries = atomic64_read(&count->retries);
	arg->ops = atomic64_read(&count->ops);
	arg->bytes_copied = atomic64_read(&count->bytes_copied);
	arg->events_lost = atomic64_read(&count->events_lost);
	for (i = 0; i < DEVEXCL_CAUSE_NR; i++) {
		arg->calls[i] = atomic64_read(&count->calls[i]);
		arg->lost[i] = atomic64_read(&count->lost[i]);
	}
	for (i = 0; i < DEVEXCL_ERROR_NR; i++)
		arg->errors[i] = atomic64_read(&count->errors[i]);
	arg->jobs = READ_ONCE(ctx->nr_jobs);
	arg->jobs_submitted = atomic64_read(&count->jobs_submitted);
	arg->jobs_completed = atomic64_read(&count->jobs_completed);
	arg->jobs_cancelled = atomic64_read(&count->jobs_cancelled);
	return 0;
}

static int devexcl_ioctl_inject(struct devexcl_ctx *ctx, void *data)
{
	struct devexcl_inject *arg = data;

	if (arg->broken & ~DEVEXCL_BROKEN_MODES || arg->reserved)
		return -EINVAL;
	if (arg->retries > INT_MAX || arg->fail_nth > INT_MAX)
		return -EINVAL;
	WRITE_ONCE(ctx->broken, arg->broken);
	atomic_set(&ctx->inject_retries, arg->retries);
	arg->left = atomic_xchg(&ctx->fail_nth, arg->fail_nth);
	arg->failed = xchg(&ctx->failed, DEVEXCL_FAULT_NONE);
	return 0;
}

static int devexcl_ioctl_breakpoint(struct devexcl_ctx *ctx, void *data)
{
	struct devexcl_breakpoint *arg = data;
	struct devexcl_call *call = container_of(data, struct devexcl_call,
						 args);
	struct devexcl_stop *stop;
	int ret;

	if (arg->point >= DEVEXCL_POINT_NR || arg->reserved)
		return -EINVAL;
	if (arg->addr || arg->length) {
		ret = devexcl_check_range(arg->addr, arg->length);
		if (ret)
			return ret;
	}
	if (!devexcl_stop_count(ctx, 1))
		return -ENOSPC;
	ret = -ENOMEM;
	if (devexcl_fails(ctx, DEVEXCL_FAULT_BREAKPOINT))
		goto out_count;
	stop = kzalloc(sizeof(*stop), GFP_KERNEL_ACCOUNT);
	if (!stop)
		goto out_count;
	stop->ctx = ctx;
	stop->point = arg->point;
	stop->pass = arg->pass;
	stop->start = arg->addr;
	stop->end = arg->length ? arg->addr + arg->length : ULONG_MAX;
	kref_init(&stop->ref);
	init_waitqueue_head(&stop->wait);

	ret = -ENFILE;
	if (devexcl_fails(ctx, DEVEXCL_FAULT_FILE))
		goto out_free;
	ret = devexcl_make_file(call, "[devexcl-breakpoint]",
				&devexcl_stop_fops, stop);
	if (ret < 0)
		goto out_free;
	get_file(ctx->file);	/* dropped with the breakpoint's file */
	spin_lock(&ctx->breakpoint_lock);
	list_add_tail(&stop->node, &ctx->breakpoints);
	spin_unlock(&ctx->breakpoint_lock);
	arg->fd = ret;
	return 0;

out_free:
	kfree(stop);
out_count:
	devexcl_stop_count(ctx, -1);
	return ret;
}

/*
 * Engines
 *
 * An engine is a thread that runs the jobs of its queue one after the other. A
 * job belongs to its context: it holds no reference of the file, and the file
 * does not go before it has ended. It is the engine's from the time that it is
 * queued until it is ENDED, which is the last that the engine does to it and to
 * its context; afterwards it is on the list of the context's jobs only.
 *
 * The address space is not the engine's: it has a user of it for the length of
 * a batch at most, so that the owner's exit takes it down. If that user is the
 * last one, exit_mmap() runs here; so no locks are held when it is dropped.
 *
 * Wherever the engine sleeps, it does so killable. It ignores signals, but for
 * SIGKILL from the kernel, by which a job that runs is cancelled. The signal is
 * sent while the job is the running one, and what came is forgotten when it is
 * not any more, both under the same lock: so it never meets another job.
 */

/**
 * struct devexcl_progress - what a job has done
 * @done: as in &struct devexcl_wait
 * @passes: likewise
 * @matched: likewise
 * @sum: likewise
 * @last: likewise
 * @acquired: likewise
 */
struct devexcl_progress {
	u64 done;
	u64 passes;
	u64 matched;
	u64 sum;
	u64 last;
	u64 acquired;
};

/**
 * struct devexcl_job - a stream of operations
 * @ctx: whose it is
 * @engine: who does it
 * @node: in @ctx->jobs
 * @queue: in @engine->queue, while QUEUED
 * @arg: what is to be done; checked
 * @mirror: id of the mirror
 * @state: &enum devexcl_job_state; this and the next two under job_lock
 * @status: 0 or why it has ended
 * @cancelled: somebody does not want it any more
 * @eventfd: to be signalled, or NULL
 * @memcg: pays for what the engine allocates
 * @kcov_handle: of the task that has submitted it
 * @lock: of @progress, so that its numbers are of the same moment
 * @progress: after the newest batch
 * @begin_ns: when it began to run
 * @end_ns: when it ended
 */
struct devexcl_job {
	struct devexcl_ctx *ctx;
	struct devexcl_engine *engine;
	struct list_head node;
	struct list_head queue;
	struct devexcl_submit arg;
	u32 mirror;
	enum devexcl_job_state state;
	int status;
	bool cancelled;
	struct eventfd_ctx *eventfd;
	struct mem_cgroup *memcg;
	devexcl_kcov_handle kcov_handle;
	spinlock_t lock;	/* of progress */
	struct devexcl_progress progress;
	u64 begin_ns;
	u64 end_ns;
};

static void devexcl_job_free(struct devexcl_job *job)
{
	if (job->eventfd)
		eventfd_ctx_put(job->eventfd);
	mem_cgroup_put(job->memcg);
	kfree(job);
}

/**
 * struct devexcl_stream - where in its stream a job is
 * @arg: the stream
 * @pass: number of the pass
 * @pos: number of the next operation in the pass
 * @offset: STRIDE: where it is
 * @random: RANDOM: state of the random numbers
 * @node: CHASE: address of the node
 * @max: operations of a batch
 * @ops: room for them
 * @batch: what comes next
 * @progress: up to there
 */
struct devexcl_stream {
	const struct devexcl_submit *arg;
	u64 pass;
	u64 pos;
	u64 offset;
	u64 random;
	u64 node;
	unsigned int max;
	struct devexcl_atomic_op *ops;
	struct devexcl_batch batch;
	struct devexcl_progress progress;
};

/* splitmix64 */
static u64 devexcl_random(u64 *state)
{
	u64 z = *state += 0x9e3779b97f4a7c15ULL;

	z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ULL;
	z = (z ^ (z >> 27)) * 0x94d049bb133111ebULL;
	return z ^ (z >> 31);
}

/* Every pass is the same. */
static void devexcl_stream_rewind(struct devexcl_stream *stream)
{
	stream->pos = 0;
	stream->offset = 0;
	stream->random = stream->arg->seed;
	stream->node = stream->arg->addr;
}

/* One step on, to the next pass perhaps. */
static void devexcl_stream_step(struct devexcl_stream *stream, bool last)
{
	if (++stream->pos < stream->arg->count && !last)
		return;
	stream->pass++;
	devexcl_stream_rewind(stream);
}

/* Address of the next operation. */
static u64 devexcl_stream_next(struct devexcl_stream *stream)
{
	const struct devexcl_submit *arg = stream->arg;
	u64 offset = 0;

	switch (arg->pattern) {
	case DEVEXCL_PATTERN_STRIDE:
		offset = stream->offset;
		stream->offset += arg->stride;
		if (stream->offset >= arg->length)
			stream->offset -= arg->length;
		break;
	case DEVEXCL_PATTERN_RANDOM:
		offset = mul_u64_u64_shr(devexcl_random(&stream->random),
					 arg->length >> ilog2(arg->width), 64);
		offset <<= ilog2(arg->width);
		break;
	}
	devexcl_stream_step(stream, false);
	return arg->addr + offset;
}

/* Where the list leads to must be what the job may work on. */
static int devexcl_stream_check_node(const struct devexcl_stream *stream)
{
	const struct devexcl_submit *arg = stream->arg;
	u64 offset = stream->node - arg->addr;
	u64 size = max_t(u64, sizeof(u64), arg->stride + arg->width);

	if (!IS_ALIGNED(stream->node, sizeof(u64)))
		return -EINVAL;
	if (offset >= arg->length || size > arg->length - offset)
		return -ENXIO;
	return 0;
}

static void devexcl_stream_op(const struct devexcl_stream *stream,
			      struct devexcl_atomic_op *op, u64 addr)
{
	*op = (struct devexcl_atomic_op) {
		.addr = addr,
		.operand = stream->arg->operand,
		.compare = stream->arg->compare,
		.op = stream->arg->op,
		.width = stream->arg->width,
	};
}

/* Take note of the first @nr operations of the batch. */
static void devexcl_stream_note(struct devexcl_stream *stream, unsigned int nr)
{
	unsigned int bits = stream->arg->width * BITS_PER_BYTE;
	u64 compare = stream->arg->compare & GENMASK_ULL(bits - 1, 0);
	struct devexcl_progress *progress = &stream->progress;
	unsigned int i;

	for (i = 0; i < nr; i++) {
		u64 old = stream->batch.ops[i].old;

		progress->sum += old;
		progress->matched += old == compare;
		progress->last = old;
	}
	progress->done += nr;
	progress->acquired = stream->batch.acquired;
}

/* As many operations as fit into a batch. */
static void devexcl_stream_fill(struct devexcl_stream *stream)
{
	unsigned int nr = 0;

	while (nr < stream->max && stream->pass < stream->arg->repeat)
		devexcl_stream_op(stream, &stream->ops[nr++],
				  devexcl_stream_next(stream));
	stream->batch.ops = stream->ops;
	stream->batch.nr = nr;
}

/*
 * Go on with the batch, up to a page that has to be waited for: that is the
 * first thing that is done in the next round, when progress has been told.
 */
static int devexcl_stream_batch(struct devexcl_ctx *ctx,
				struct devexcl_stream *stream)
{
	struct devexcl_batch *batch = &stream->batch;
	unsigned int ran;

	if (!batch->nr)
		devexcl_stream_fill(stream);
	batch->nowait = 1;
	ran = devexcl_ops_run(ctx, batch);
	devexcl_stream_note(stream, ran);
	stream->progress.passes = div64_u64(stream->progress.done,
					    stream->arg->count);
	batch->ops += ran;
	batch->nr -= ran;
	return batch->nr ? batch->ops[0].error : 0;
}

/*
 * A node of a list: read the link, and do the operation. Nothing comes in
 * between if the device holds the page.
 */
static int devexcl_stream_node(struct devexcl_ctx *ctx,
			       struct devexcl_stream *stream)
{
	struct devexcl_batch *batch = &stream->batch;
	int ret = devexcl_stream_check_node(stream);
	unsigned int ran;
	u64 link;

	if (ret)
		return ret;
	stream->ops[0] = (struct devexcl_atomic_op) {
		.addr = stream->node,
		.op = DEVEXCL_OP_OR,
		.width = sizeof(link),
	};
	devexcl_stream_op(stream, &stream->ops[1],
			  stream->node + stream->arg->stride);
	batch->ops = stream->ops;
	batch->nr = 2;
	ran = devexcl_ops_run(ctx, batch);
	if (ran < batch->nr)
		return batch->ops[ran].error;

	batch->nr = 0;
	link = batch->ops[0].old;
	batch->ops++;
	devexcl_stream_note(stream, 1);
	stream->node = link;
	devexcl_stream_step(stream, !link);
	stream->progress.passes = stream->pass;
	return 0;
}

/* As many nodes as operations in a batch, and as far. */
static int devexcl_stream_nodes(struct devexcl_ctx *ctx,
				struct devexcl_stream *stream)
{
	unsigned int i;
	int ret = 0;

	for (i = 0; i < stream->max && stream->pass < stream->arg->repeat &&
	     !ret; i++) {
		stream->batch.nowait = i ? 0 : 2;
		ret = devexcl_stream_node(ctx, stream);
	}
	return ret;
}

static bool devexcl_stream_ended(const struct devexcl_stream *stream)
{
	return stream->pass >= stream->arg->repeat && !stream->batch.nr;
}

static void devexcl_job_tell(struct devexcl_job *job,
			     const struct devexcl_stream *stream)
{
	/* Nobody else writes to it. */
	u64 before = job->progress.done;

	spin_lock(&job->lock);
	job->progress = stream->progress;
	spin_unlock(&job->lock);
	atomic64_add(stream->progress.done - before, &job->ctx->count.ops);
}

/* Do a job. Return: why it ends. */
static int devexcl_job_do(struct devexcl_job *job)
{
	struct devexcl_stream stream = {
		.arg = &job->arg,
		.max = DEVEXCL_BATCH_JOB,
		.ops = job->engine->ops,
		.batch = {
			.flags = job->arg.flags & (DEVEXCL_ATOMIC_ACQUIRE |
						   DEVEXCL_ATOMIC_GAP),
			.gap_ns = job->arg.gap_ns,
		},
	};
	struct devexcl_ctx *ctx = job->ctx;
	int ret = 0;

	BUILD_BUG_ON(DEVEXCL_SUBMIT_ACQUIRE != DEVEXCL_ATOMIC_ACQUIRE);
	BUILD_BUG_ON(DEVEXCL_SUBMIT_GAP != DEVEXCL_ATOMIC_GAP);

	/* Gaps add up. */
	if (job->arg.gap_ns)
		stream.max = clamp_t(unsigned int,
				     NSEC_PER_MSEC / job->arg.gap_ns, 1,
				     DEVEXCL_BATCH_JOB);
	devexcl_stream_rewind(&stream);
	while (!ret && !devexcl_stream_ended(&stream)) {
		if (!mmget_not_zero(ctx->mm))
			return -ESRCH;
		if (job->arg.pattern == DEVEXCL_PATTERN_CHASE)
			ret = devexcl_stream_nodes(ctx, &stream);
		else
			ret = devexcl_stream_batch(ctx, &stream);
		devexcl_job_tell(job, &stream);
		if (ret == -EAGAIN)
			ret = 0;
		/* Perhaps it is the last one; so no locks are held. */
		mmput(ctx->mm);
		cond_resched();
	}
	if (ret && ret != -EINTR)
		devexcl_count_error(ctx, ret);
	return ret;
}

/*
 * The last thing that is done to a job, and to the context, by an engine or in
 * the place of one.
 */
static void devexcl_job_end(struct devexcl_job *job, int status)
{
	struct devexcl_ctx *ctx = job->ctx;
	struct devexcl_event event = {
		.type = DEVEXCL_EVENT_JOB,
		.mirror = job->mirror,
		.start = job->arg.addr,
		.end = job->arg.addr + job->arg.length,
		.job = job->arg.id,
	};

	lockdep_assert_held(&ctx->device->job_lock);
	if (status && job->cancelled) {
		status = -ECANCELED;
		atomic64_inc(&ctx->count.jobs_cancelled);
	} else {
		atomic64_inc(&ctx->count.jobs_completed);
	}
	event.status = status;
	job->status = status;
	job->state = DEVEXCL_JOB_ENDED;
	job->end_ns = ktime_get_ns();
	job->engine->load--;
	ctx->nr_active--;
	trace_devexcl_job_end(ctx, &job->arg, status, job->progress.done);
	devexcl_record(ctx, &event);
	if (job->eventfd)
		devexcl_eventfd_signal(job->eventfd);
	wake_up_all(&ctx->job_wait);
}

static void devexcl_engine_run(struct devexcl_engine *engine,
			       struct devexcl_job *job)
{
	struct devexcl_device *device = engine->device;
	struct mem_cgroup *memcg;
	int status;

	trace_devexcl_job_begin(job->ctx, &job->arg);
	kcov_remote_start_common(job->kcov_handle);
	memcg = set_active_memcg(job->memcg);
	status = devexcl_job_do(job);
	set_active_memcg(memcg);
	kcov_remote_stop();

	spin_lock(&device->job_lock);
	engine->running = NULL;
	flush_signals(current);
	devexcl_job_end(job, status);
	spin_unlock(&device->job_lock);
}

/* The job that comes next, or NULL. */
static struct devexcl_job *devexcl_engine_next(struct devexcl_engine *engine)
{
	struct devexcl_device *device = engine->device;
	struct devexcl_job *job;

	spin_lock(&device->job_lock);
	job = list_first_entry_or_null(&engine->queue, struct devexcl_job,
				       queue);
	if (job) {
		list_del_init(&job->queue);
		job->state = DEVEXCL_JOB_RUNNING;
		job->begin_ns = ktime_get_ns();
		engine->running = job;
	}
	spin_unlock(&device->job_lock);
	return job;
}

static int devexcl_engine_thread(void *data)
{
	struct devexcl_engine *engine = data;

	allow_kernel_signal(SIGKILL);
	while (!kthread_should_stop()) {
		struct devexcl_job *job = devexcl_engine_next(engine);

		if (job)
			devexcl_engine_run(engine, job);
		else
			wait_event_idle(engine->wait,
					!list_empty_careful(&engine->queue) ||
					kthread_should_stop());
	}
	return 0;
}

static int devexcl_engine_make_thread(struct devexcl_ctx *ctx,
				      struct devexcl_engine *engine)
{
	struct task_struct *task;

	if (devexcl_fails(ctx, DEVEXCL_FAULT_ENGINE))
		return -ENOMEM;
	if (!engine->ops)
		engine->ops = kcalloc(DEVEXCL_BATCH_JOB, sizeof(*engine->ops),
				      GFP_KERNEL);
	if (!engine->ops)
		return -ENOMEM;
	task = kthread_run(devexcl_engine_thread, engine, "%s/%u",
			   engine->device->name, engine->id);
	if (IS_ERR(task))
		return PTR_ERR(task);
	engine->task = task;
	return 0;
}

/* Make the thread, if there is none yet. */
static int devexcl_engine_start(struct devexcl_ctx *ctx,
				struct devexcl_engine *engine)
{
	struct devexcl_device *device = engine->device;
	int ret = 0;

	if (devexcl_fails(ctx, DEVEXCL_FAULT_LOCK) ||
	    mutex_lock_killable(&device->engine_lock))
		return -EINTR;
	if (!engine->task)
		ret = devexcl_engine_make_thread(ctx, engine);
	mutex_unlock(&device->engine_lock);
	return ret;
}

static void devexcl_engine_stop(struct devexcl_engine *engine)
{
	if (engine->task)
		kthread_stop(engine->task);
	kfree(engine->ops);
}

static void devexcl_engines_init(struct devexcl_device *device)
{
	unsigned int i;

	mutex_init(&device->engine_lock);
	spin_lock_init(&device->job_lock);
	for (i = 0; i < nengines; i++) {
		struct devexcl_engine *engine = &device->engines[i];

		engine->device = device;
		engine->id = i;
		init_waitqueue_head(&engine->wait);
		INIT_LIST_HEAD(&engine->queue);
	}
}

static struct devexcl_engine *devexcl_engine_get(struct devexcl_device *device,
						 unsigned int id)
{
	struct devexcl_engine *engine = device->engines;
	unsigned int i;

	if (id != DEVEXCL_ENGINE_ANY)
		return id < nengines ? &device->engines[id] : NULL;

	spin_lock(&device->job_lock);
	for (i = 1; i < nengines; i++)
		if (device->engines[i].load < engine->load)
			engine = &device->engines[i];
	spin_unlock(&device->job_lock);
	return engine;
}

/* The context's job of that number, or NULL. */
static struct devexcl_job *devexcl_job_find(struct devexcl_ctx *ctx, u32 id)
{
	struct devexcl_job *job;

	lockdep_assert_held(&ctx->device->job_lock);
	list_for_each_entry(job, &ctx->jobs, node)
		if (job->arg.id == id)
			return job;
	return NULL;
}

/*
 * Give a job to its engine. It may not be there any more when this returns:
 * who guesses its number can wait for it.
 */
static int devexcl_job_queue(struct devexcl_job *job, u32 *id)
{
	struct devexcl_engine *engine = job->engine;
	struct devexcl_ctx *ctx = job->ctx;
	int ret = 0;

	spin_lock(&ctx->device->job_lock);
	if (ctx->nr_jobs >= DEVEXCL_MAX_JOBS) {
		ret = -ENOSPC;
		goto out;
	}
	do {	/* after four billions, numbers come again */
		job->arg.id = ++ctx->last_job;
	} while (!job->arg.id || devexcl_job_find(ctx, job->arg.id));
	*id = job->arg.id;
	ctx->nr_jobs++;
	ctx->nr_active++;
	list_add_tail(&job->node, &ctx->jobs);
	list_add_tail(&job->queue, &engine->queue);
	engine->load++;
	atomic64_inc(&ctx->count.jobs_submitted);
	wake_up(&engine->wait);
out:
	spin_unlock(&ctx->device->job_lock);
	return ret;
}

/* Make a job end. An engine that has begun with it needs some time for that. */
static void devexcl_job_cancel(struct devexcl_job *job)
{
	lockdep_assert_held(&job->ctx->device->job_lock);
	switch (job->state) {
	case DEVEXCL_JOB_QUEUED:
		job->cancelled = true;
		list_del_init(&job->queue);
		devexcl_job_end(job, -ECANCELED);
		break;
	case DEVEXCL_JOB_RUNNING:
		job->cancelled = true;
		send_sig(SIGKILL, job->engine->task, 1);
		break;
	case DEVEXCL_JOB_ENDED:
		break;
	}
}

static bool devexcl_jobs_ended(struct devexcl_ctx *ctx)
{
	bool ended;

	spin_lock(&ctx->device->job_lock);
	ended = !ctx->nr_active;
	spin_unlock(&ctx->device->job_lock);
	return ended;
}

/* The file goes: nobody submits any more. */
static void devexcl_jobs_kill(struct devexcl_ctx *ctx)
{
	struct devexcl_job *job, *next;

	spin_lock(&ctx->device->job_lock);
	list_for_each_entry(job, &ctx->jobs, node)
		devexcl_job_cancel(job);
	spin_unlock(&ctx->device->job_lock);

	wait_event(ctx->job_wait, devexcl_jobs_ended(ctx));
	list_for_each_entry_safe(job, next, &ctx->jobs, node)
		devexcl_job_free(job);
}

static int devexcl_submit_check_pattern(const struct devexcl_submit *arg)
{
	if (arg->pattern != DEVEXCL_PATTERN_RANDOM && arg->seed)
		return -EINVAL;
	if (!IS_ALIGNED(arg->length, arg->width) ||
	    !IS_ALIGNED(arg->stride, arg->width))
		return -EINVAL;

	switch (arg->pattern) {
	case DEVEXCL_PATTERN_WORD:
		return arg->stride || arg->length != arg->width ? -EINVAL : 0;
	case DEVEXCL_PATTERN_STRIDE:
		return !arg->stride || arg->stride >= arg->length ? -EINVAL : 0;
	case DEVEXCL_PATTERN_RANDOM:
		return arg->stride ? -EINVAL : 0;
	case DEVEXCL_PATTERN_CHASE:
		return arg->stride >= PAGE_SIZE ||
		       !IS_ALIGNED(arg->addr, sizeof(u64)) ? -EINVAL : 0;
	default:
		return -EINVAL;
	}
}

static int devexcl_submit_check(const struct devexcl_submit *arg)
{
	const struct devexcl_atomic_op op = {
		.addr = arg->addr,
		.op = arg->op,
		.width = arg->width,
	};
	int ret = devexcl_op_check(&op);

	if (ret)
		return ret;
	if (arg->reserved || !arg->length || !arg->count || !arg->repeat)
		return -EINVAL;
	if (arg->gap_ns > DEVEXCL_MAX_GAP_NS ||
	    (arg->gap_ns && !(arg->flags & DEVEXCL_SUBMIT_GAP)))
		return -EINVAL;
	if (arg->eventfd && !(arg->flags & DEVEXCL_SUBMIT_EVENTFD))
		return -EINVAL;
	ret = devexcl_submit_check_pattern(arg);
	if (ret)
		return ret;
	return arg->addr + arg->length < arg->addr ? -EOVERFLOW : 0;
}

static int devexcl_ioctl_submit(struct devexcl_ctx *ctx, void *data)
{
	struct devexcl_submit *arg = data;
	struct devexcl_mirror_range *mirror;
	struct devexcl_engine *engine;
	struct devexcl_job *job;
	int ret;

	arg->id = 0;
	ret = devexcl_submit_check(arg);
	if (ret)
		return ret;
	engine = devexcl_engine_get(ctx->device, arg->engine);
	if (!engine)
		return -EINVAL;
	mirror = devexcl_mirror_get_range(ctx, arg->addr, arg->length);
	if (IS_ERR(mirror))
		return PTR_ERR(mirror);

	ret = -ENOMEM;
	if (devexcl_fails(ctx, DEVEXCL_FAULT_JOB))
		goto out_mirror;
	job = kzalloc(sizeof(*job), GFP_KERNEL_ACCOUNT);
	if (!job)
		goto out_mirror;
	spin_lock_init(&job->lock);
	job->ctx = ctx;
	job->engine = engine;
	job->mirror = mirror->id;
	job->arg = *arg;
	job->arg.engine = engine->id;
	job->kcov_handle = kcov_common_handle();
	job->memcg = get_mem_cgroup_from_mm(ctx->mm);
	if (arg->flags & DEVEXCL_SUBMIT_EVENTFD) {
		struct eventfd_ctx *eventfd = eventfd_ctx_fdget(arg->eventfd);

		ret = PTR_ERR_OR_ZERO(eventfd);
		if (ret)
			goto out_job;
		job->eventfd = eventfd;
	}
	ret = devexcl_engine_start(ctx, engine) ?: devexcl_job_queue(job, &arg->id);
	if (ret)
		goto out_job;
	goto out_mirror;

out_job:
	devexcl_job_free(job);
out_mirror:
	devexcl_mirror_put(mirror);
	return ret;
}

static void devexcl_job_look(struct devexcl_job *job, struct devexcl_wait *arg)
{
	struct devexcl_progress *progress = &job->progress;
	u64 end_ns = job->end_ns ?: ktime_get_ns();

	lockdep_assert_held(&job->ctx->device->job_lock);
	arg->state = job->state;
	arg->engine = job->arg.engine;
	arg->status = job->status;
	arg->run_ns = job->begin_ns ? end_ns - job->begin_ns : 0;
	spin_lock(&job->lock);
	arg->done = progress->done;
	arg->passes = progress->passes;
	arg->matched = progress->matched;
	arg->sum = progress->sum;
	arg->last = progress->last;
	arg->acquired = progress->acquired;
	spin_unlock(&job->lock);
}

/* Has it ended, or been forgotten? */
static bool devexcl_job_settled(struct devexcl_ctx *ctx, u32 id)
{
	struct devexcl_job *job;
	bool settled;

	spin_lock(&ctx->device->job_lock);
	job = devexcl_job_find(ctx, id);
	settled = !job || job->state == DEVEXCL_JOB_ENDED;
	spin_unlock(&ctx->device->job_lock);
	return settled;
}

/* Return: 0, -ETIME, or -EINTR. */
static int devexcl_job_wait(struct devexcl_ctx *ctx, u32 id, u64 timeout_ns)
{
	ktime_t timeout = min_t(u64, timeout_ns, KTIME_MAX);
	int ret;

	if (devexcl_fails(ctx, DEVEXCL_FAULT_WAIT))
		return -EINTR;
	if (!timeout_ns)
		return -ETIME;
	ret = wait_event_interruptible_hrtimeout(ctx->job_wait,
						 devexcl_job_settled(ctx, id),
						 timeout);
	/* Part of the timeout is over, so the call is not to be made again. */
	return ret == -ERESTARTSYS ? -EINTR : ret;
}

/*
 * Take a job out of the list if it has ended.
 *
 * Return: the job, NULL if it has not, or -ENOENT.
 */
static struct devexcl_job *devexcl_job_take(struct devexcl_ctx *ctx, u32 id,
					    struct devexcl_wait *arg)
{
	struct devexcl_job *job;

	spin_lock(&ctx->device->job_lock);
	job = devexcl_job_find(ctx, id);
	if (job)
		devexcl_job_look(job, arg);
	if (!job)
		job = ERR_PTR(-ENOENT);
	else if (job->state == DEVEXCL_JOB_ENDED)
		list_del_init(&job->node);
	else
		job = NULL;
	spin_unlock(&ctx->device->job_lock);
	return job;
}

/* Forget a job that was taken out of the list, or put it back. */
static void devexcl_job_hand_over(struct devexcl_ctx *ctx,
				  struct devexcl_job *job, bool told)
{
	if (!job)
		return;
	spin_lock(&ctx->device->job_lock);
	if (told)
		ctx->nr_jobs--;
	else
		list_add(&job->node, &ctx->jobs);
	spin_unlock(&ctx->device->job_lock);
	if (told)
		devexcl_job_free(job);
}

static int devexcl_ioctl_wait(struct devexcl_ctx *ctx, void *data)
{
	struct devexcl_wait *arg = data;
	struct devexcl_call *call = container_of(data, struct devexcl_call,
						 args);
	int waited = devexcl_job_wait(ctx, arg->id, arg->timeout_ns);
	struct devexcl_job *job;

	job = devexcl_job_take(ctx, arg->id, arg);
	if (IS_ERR(job))
		return PTR_ERR(job);
	call->job = job;
	return job ? 0 : waited;
}

/* Nobody knows of the job. */
static int devexcl_undo_submit(struct devexcl_ctx *ctx, void *data)
{
	struct devexcl_submit *arg = data;
	struct devexcl_wait ignored;
	struct devexcl_job *job;

	spin_lock(&ctx->device->job_lock);
	job = devexcl_job_find(ctx, arg->id);
	if (job)
		devexcl_job_cancel(job);
	spin_unlock(&ctx->device->job_lock);

	wait_event(ctx->job_wait, devexcl_job_settled(ctx, arg->id));
	job = devexcl_job_take(ctx, arg->id, &ignored);
	if (!IS_ERR(job))
		devexcl_job_hand_over(ctx, job, true);
	return 0;
}

static int devexcl_ioctl_cancel(struct devexcl_ctx *ctx, void *data)
{
	struct devexcl_cancel *arg = data;
	struct devexcl_job *job;
	int ret = 0;

	if (arg->reserved)
		return -EINVAL;
	spin_lock(&ctx->device->job_lock);
	job = devexcl_job_find(ctx, arg->id);
	if (!job)
		ret = -ENOENT;
	else if (job->state == DEVEXCL_JOB_ENDED)
		ret = -EALREADY;
	else
		devexcl_job_cancel(job);
	spin_unlock(&ctx->device->job_lock);
	return ret;
}

/* Files */

/**
 * struct devexcl_ioctl - how an ioctl is called
 * @cmd: number
 * @size: of its structure
 * @flags: flags that it knows
 * @any_mm: may be called from any address space
 * @fn: does it; the structure is copied back whatever it returns
 * @undo: takes back what the caller was to be given, and cannot be told of
 */
struct devexcl_ioctl {
	unsigned int cmd;
	unsigned int size;
	unsigned int flags;
	bool any_mm;
	int (*fn)(struct devexcl_ctx *ctx, void *arg);
	int (*undo)(struct devexcl_ctx *ctx, void *arg);
};

#define DEVEXCL_IOCTL_UNDO(_cmd, _name, _member, _flags, _any_mm, _undo)	\
	[_IOC_NR(_cmd)] = {						\
		.cmd = _cmd,						\
		.size = sizeof_field(union devexcl_args, _member),	\
		.flags = _flags,					\
		.any_mm = _any_mm,					\
		.fn = devexcl_ioctl_##_name,				\
		.undo = _undo,						\
	}

#define DEVEXCL_IOCTL(_cmd, _name, _member, _flags, _any_mm)		\
	DEVEXCL_IOCTL_UNDO(_cmd, _name, _member, _flags, _any_mm, NULL)

static const struct devexcl_ioctl devexcl_ioctls[] = {
	DEVEXCL_IOCTL(DEVEXCL_INFO, info, info, 0, true),
	DEVEXCL_IOCTL_UNDO(DEVEXCL_MIRROR, mirror, mirror, DEVEXCL_MIRROR_QUIET,
			   false, devexcl_ioctl_unmirror),
	DEVEXCL_IOCTL(DEVEXCL_UNMIRROR, unmirror, mirror, 0, false),
	DEVEXCL_IOCTL(DEVEXCL_ACQUIRE, acquire, acquire, 0, false),
	DEVEXCL_IOCTL(DEVEXCL_RELEASE, release, release, 0, false),
	DEVEXCL_IOCTL(DEVEXCL_ATOMIC, atomic, atomic,
		      DEVEXCL_ATOMIC_ACQUIRE | DEVEXCL_ATOMIC_GAP, false),
	DEVEXCL_IOCTL(DEVEXCL_COPY, copy, copy, DEVEXCL_COPY_WRITE, false),
	DEVEXCL_IOCTL(DEVEXCL_QUERY, query, query, 0, false),
	DEVEXCL_IOCTL(DEVEXCL_STATS, stats, stats, 0, true),
	DEVEXCL_IOCTL(DEVEXCL_INJECT, inject, inject, 0, false),
	DEVEXCL_IOCTL(DEVEXCL_BREAKPOINT, breakpoint, breakpoint, 0, false),
	DEVEXCL_IOCTL_UNDO(DEVEXCL_SUBMIT, submit, submit,
			   DEVEXCL_SUBMIT_ACQUIRE | DEVEXCL_SUBMIT_GAP |
			   DEVEXCL_SUBMIT_EVENTFD, false, devexcl_undo_submit),
	DEVEXCL_IOCTL(DEVEXCL_WAIT, wait, wait, 0, true),
	DEVEXCL_IOCTL(DEVEXCL_CANCEL, cancel, cancel, 0, true),
	DEVEXCL_IOCTL(DEVEXCL_FLOOR, floor, floor, 0, false),
};

/* The only address space that a context may work on is its own. */
static int devexcl_check_mm(const struct devexcl_ctx *ctx)
{
	if (current->mm == ctx->mm)
		return 0;
	return atomic_read(&ctx->mm->mm_users) ? -EPERM : -ESRCH;
}

static void devexcl_hand_over_file(struct devexcl_call *call, bool told)
{
	if (!call->file)
		return;
	if (told) {
		fd_install(call->fd, call->file);
	} else {
		put_unused_fd(call->fd);
		fput(call->file);
	}
}

static long devexcl_unlocked_ioctl(struct file *file, unsigned int cmd,
				   unsigned long uarg)
{
	struct devexcl_ctx *ctx = file->private_data;
	void __user *user = (void __user *)uarg;
	unsigned int nr = _IOC_NR(cmd);
	const struct devexcl_ioctl *ioctl;
	struct devexcl_call call = { .file = NULL };
	union devexcl_args *args = &call.args;
	bool told;
	int ret;

	if (nr >= ARRAY_SIZE(devexcl_ioctls) || cmd != devexcl_ioctls[nr].cmd)
		return -ENOTTY;
	ioctl = &devexcl_ioctls[nr];

	ret = devexcl_get_args(args, ioctl->size, ioctl->flags, user);
	if (ret)
		return ret;
	if (!ioctl->any_mm) {
		ret = devexcl_check_mm(ctx);
		if (ret)
			return ret;
	}
	ret = ioctl->fn(ctx, args);
	told = !copy_to_user(user, args, ioctl->size);
	if (!told && !ret && ioctl->undo)
		ioctl->undo(ctx, args);
	devexcl_hand_over_file(&call, told);
	devexcl_job_hand_over(ctx, call.job, told);
	return told ? ret : -EFAULT;
}

/*
 * Hand over as many records as there are, and as there is room for. What could
 * not be handed over is not taken.
 *
 * Return: how many, or -EFAULT.
 */
static ssize_t devexcl_ring_read(struct devexcl_ctx *ctx,
				 struct devexcl_event __user *buf, size_t room)
{
	struct devexcl_event events[DEVEXCL_BATCH_EVENTS];
	struct devexcl_ring *ring = &ctx->ring;
	size_t done = 0;

	while (done < room) {
		unsigned int nr = min(room - done, ARRAY_SIZE(events));
		unsigned int tail;
		int ret;

		nr = devexcl_ring_show(ring, events, nr, &tail);
		if (!nr)
			break;
		ret = devexcl_copy_out(ctx, buf + done, events,
				       nr * sizeof(*events));
		if (ret)
			return done ?: ret;
		if (devexcl_ring_take(ring, nr, tail))
			done += nr;
	}
	return done;
}

static ssize_t devexcl_read(struct file *file, char __user *buf, size_t count,
			    loff_t *pos)
{
	struct devexcl_ctx *ctx = file->private_data;
	struct devexcl_ring *ring = &ctx->ring;
	size_t room = count / sizeof(struct devexcl_event);
	ssize_t nr;
	int ret;

	if (!room)
		return -EINVAL;
	for (;;) {
		nr = devexcl_ring_read(ctx, (void __user *)buf, room);
		if (nr)
			return nr < 0 ? nr : nr * sizeof(struct devexcl_event);
		if (file->f_flags & O_NONBLOCK)
			return -EAGAIN;
		ret = wait_event_interruptible(ring->wait,
					       devexcl_ring_readable(ring));
		if (ret)
			return ret;
	}
}

static __poll_t devexcl_poll(struct file *file, struct poll_table_struct *wait)
{
	struct devexcl_ctx *ctx = file->private_data;

	poll_wait(file, &ctx->ring.wait, wait);
	return devexcl_ring_readable(&ctx->ring) ? EPOLLIN | EPOLLRDNORM : 0;
}

static int devexcl_open(struct inode *inode, struct file *file)
{
	/* misc_open() left it there for us. */
	struct miscdevice *misc = file->private_data;
	struct devexcl_ctx *ctx;
	int i;

	if (!current->mm)
		return -EINVAL;
	if (devexcl_fails(NULL, DEVEXCL_FAULT_OPEN))
		return -ENOMEM;
	ctx = kzalloc(sizeof(*ctx), GFP_KERNEL_ACCOUNT);
	if (!ctx)
		return -ENOMEM;
	if (!devexcl_fails(ctx, DEVEXCL_FAULT_EVENTS))
		ctx->ring.events = kvmalloc_array(DEVEXCL_MAX_EVENTS,
						  sizeof(*ctx->ring.events),
						  GFP_KERNEL_ACCOUNT);
	if (!ctx->ring.events) {
		kfree(ctx);
		return -ENOMEM;
	}
	spin_lock_init(&ctx->ring.lock);
	init_waitqueue_head(&ctx->ring.wait);
	mutex_init(&ctx->mirror_lock);
	for (i = 0; i < ARRAY_SIZE(ctx->unit); i++)
		mutex_init(&ctx->unit[i]);
	mt_init_flags(&ctx->mirrors, MT_FLAGS_USE_RCU);
	spin_lock_init(&ctx->breakpoint_lock);
	INIT_LIST_HEAD(&ctx->breakpoints);
	INIT_LIST_HEAD(&ctx->jobs);
	init_waitqueue_head(&ctx->job_wait);
	ctx->file = file;
	ctx->device = container_of(misc, struct devexcl_device, misc);
	ctx->mm = current->mm;
	mmgrab(ctx->mm);
	file->private_data = ctx;
	return stream_open(inode, file);
}

/* The last user of the file is gone, so nobody else uses the context. */
static int devexcl_release(struct inode *inode, struct file *file)
{
	struct devexcl_ctx *ctx = file->private_data;
	struct devexcl_mirror_range *mirror;
	unsigned long index = 0;

	devexcl_jobs_kill(ctx);
	mt_for_each(&ctx->mirrors, mirror, index, ULONG_MAX)
		devexcl_mirror_remove(mirror);
	mtree_destroy(&ctx->mirrors);
	WARN_ON_ONCE(atomic64_read(&ctx->held) || atomic64_read(&ctx->mapped) ||
		     atomic64_read(&ctx->leaves));
	mmdrop(ctx->mm);
	kvfree(ctx->ring.events);
	kfree(ctx);
	return 0;
}

static const struct file_operations devexcl_fops = {
	.owner = THIS_MODULE,
	.open = devexcl_open,
	.release = devexcl_release,
	.read = devexcl_read,
	.poll = devexcl_poll,
	.unlocked_ioctl = devexcl_unlocked_ioctl,
	.compat_ioctl = compat_ptr_ioctl,
};

static void devexcl_unregister(unsigned int nr)
{
	unsigned int i;

	while (nr--) {
		misc_deregister(&devexcl_devices[nr].misc);
		for (i = 0; i < nengines; i++)
			devexcl_engine_stop(&devexcl_devices[nr].engines[i]);
	}
	debugfs_remove(devexcl_fault_dir);
	kmem_cache_destroy(devexcl_leaf_cache);
}

static int __init devexcl_init(void)
{
	unsigned int i;
	int ret;

	if (!ndevices || ndevices > DEVEXCL_MAX_DEVICES) {
		pr_err("ndevices must be from 1 to %u, not %u\n",
		       DEVEXCL_MAX_DEVICES, ndevices);
		return -EINVAL;
	}
	if (!nengines || nengines > DEVEXCL_MAX_ENGINES) {
		pr_err("nengines must be from 1 to %u, not %u\n",
		       DEVEXCL_MAX_ENGINES, nengines);
		return -EINVAL;
	}
	devexcl_leaf_cache = KMEM_CACHE(devexcl_leaf, SLAB_ACCOUNT);
	if (!devexcl_leaf_cache)
		return -ENOMEM;
	devexcl_fault_dir = fault_create_debugfs_attr("fail_devexcl", NULL,
						      &devexcl_fault_attr);

	for (i = 0; i < ndevices; i++) {
		struct devexcl_device *device = &devexcl_devices[i];

		device->id = i;
		snprintf(device->name, sizeof(device->name), "devexcl%u", i);
		devexcl_engines_init(device);
		device->misc.minor = MISC_DYNAMIC_MINOR;
		device->misc.name = device->name;
		device->misc.fops = &devexcl_fops;
		device->misc.mode = 0600;
		ret = misc_register(&device->misc);
		if (ret) {
			pr_err("cannot register %s: %d\n", device->name, ret);
			devexcl_unregister(i);
			return ret;
		}
	}
	return 0;
}

static void __exit devexcl_exit(void)
{
	devexcl_unregister(ndevices);
}

module_init(devexcl_init);
module_exit(devexcl_exit);

MODULE_DESCRIPTION("Emulated device that tests device-exclusive memory");
MODULE_LICENSE("GPL");
MODULE_INFO(test, "Y");
