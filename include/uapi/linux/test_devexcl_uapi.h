/* SPDX-License-Identifier: GPL-2.0-only WITH Linux-syscall-note */
/*
 * The ABI of the emulated device that tests device-exclusive memory
 *
 * An open file of /dev/devexclN is a *context*: the device's view of the
 * address space (mm) of the task that opened it. All addresses and lengths
 * are bytes in that address space; a page is DEVEXCL_INFO's page_size.
 *
 * Every ioctl takes a structure that begins with
 *
 *	__u32 size;	what the caller was compiled with: sizeof(struct)
 *	__u32 flags;	DEVEXCL_<IOCTL>_*, unknown bits are -EINVAL
 *
 * A structure that is larger than the kernel's is accepted if the surplus is
 * zero, and the whole no larger than a page. Reserved fields must be zero.
 * Output fields are written also when the call fails half way, so that progress
 * is never lost: like read(2), a call that did part of its work returns 0 and
 * says how much, and the next call, which begins where this one stopped,
 * returns the error.
 *
 * Errors that every ioctl can return:
 *
 *	ENOTTY	unknown ioctl number
 *	EFAULT	the structure (or an array it points to) is not readable and
 *		writable. If it ceases to be so while the call is at work, the
 *		work may be done, except that what the caller was to be given
 *		(a mirror, a file) is taken back
 *	EINVAL	size too small, unknown flag, reserved field not zero, bad value
 *	E2BIG	size larger than the kernel knows, and the surplus is not zero
 *	EPERM	the caller's address space is not the one that the context is
 *		bound to (all ioctls but INFO, STATS, WAIT and CANCEL)
 *	ESRCH	the context's address space is gone (likewise)
 *	EINTR	a signal came before any progress was made
 *	ENOMEM	out of memory, or over the limit of the memory cgroup
 *
 * Errors of ioctls that take a range of pages (addr, length):
 *
 *	EINVAL		addr or length is not a multiple of the page size, or
 *			length is zero
 *	EOVERFLOW	addr + length wraps around
 *	ENXIO		the range is not inside one mirrored range
 */
#ifndef _UAPI_LINUX_TEST_DEVEXCL_H
#define _UAPI_LINUX_TEST_DEVEXCL_H

#include <linux/ioctl.h>
#include <linux/types.h>

#define DEVEXCL_ABI_VERSION	1

#define DEVEXCL_IOC_TYPE	0xde

#define DEVEXCL_INFO		_IO(DEVEXCL_IOC_TYPE, 0x00)
#define DEVEXCL_MIRROR		_IO(DEVEXCL_IOC_TYPE, 0x01)
#define DEVEXCL_UNMIRROR	_IO(DEVEXCL_IOC_TYPE, 0x02)
#define DEVEXCL_ACQUIRE		_IO(DEVEXCL_IOC_TYPE, 0x03)
#define DEVEXCL_RELEASE		_IO(DEVEXCL_IOC_TYPE, 0x04)
#define DEVEXCL_ATOMIC		_IO(DEVEXCL_IOC_TYPE, 0x05)
#define DEVEXCL_COPY		_IO(DEVEXCL_IOC_TYPE, 0x06)
#define DEVEXCL_QUERY		_IO(DEVEXCL_IOC_TYPE, 0x07)
#define DEVEXCL_STATS		_IO(DEVEXCL_IOC_TYPE, 0x08)
#define DEVEXCL_INJECT		_IO(DEVEXCL_IOC_TYPE, 0x09)
#define DEVEXCL_BREAKPOINT	_IO(DEVEXCL_IOC_TYPE, 0x0a)
#define DEVEXCL_SUBMIT		_IO(DEVEXCL_IOC_TYPE, 0x0b)
#define DEVEXCL_WAIT		_IO(DEVEXCL_IOC_TYPE, 0x0c)
#define DEVEXCL_CANCEL		_IO(DEVEXCL_IOC_TYPE, 0x0d)
#define DEVEXCL_FLOOR		_IO(DEVEXCL_IOC_TYPE, 0x0e)

/**
 * enum devexcl_cause - why an MMU notifier was called
 * @DEVEXCL_CAUSE_UNMAP: munmap(), mremap(), or a new mapping over an old one
 * @DEVEXCL_CAUSE_CLEAR: the entry is cleared or replaced: madvise(), COW,
 *	reclaim, migration, KSM, and from Linux 6.15 on a CPU fault on a
 *	device-exclusive entry
 * @DEVEXCL_CAUSE_PROTECTION_VMA: mprotect() and relatives
 * @DEVEXCL_CAUSE_PROTECTION_PAGE: protection of single pages: fork,
 *	writeback
 * @DEVEXCL_CAUSE_SOFT_DIRTY: soft-dirty bits are being cleared
 * @DEVEXCL_CAUSE_RELEASE: the address space goes away
 * @DEVEXCL_CAUSE_MIGRATE: migration to device memory
 * @DEVEXCL_CAUSE_EXCLUSIVE: a device makes the entry device-exclusive; up to
 *	Linux 6.14 also (with no owner) a CPU fault on a device-exclusive entry
 * @DEVEXCL_CAUSE_OTHER: an event that this version does not know
 * @DEVEXCL_CAUSE_NR: number of causes
 *
 * The numbers are the ABI's own and do not follow the kernel's.
 */
enum devexcl_cause {
	DEVEXCL_CAUSE_UNMAP		= 0,
	DEVEXCL_CAUSE_CLEAR		= 1,
	DEVEXCL_CAUSE_PROTECTION_VMA	= 2,
	DEVEXCL_CAUSE_PROTECTION_PAGE	= 3,
	DEVEXCL_CAUSE_SOFT_DIRTY	= 4,
	DEVEXCL_CAUSE_RELEASE		= 5,
	DEVEXCL_CAUSE_MIGRATE		= 6,
	DEVEXCL_CAUSE_EXCLUSIVE		= 7,
	DEVEXCL_CAUSE_OTHER		= 8,
	DEVEXCL_CAUSE_NR		= 9,
};

/*
 * Capabilities of the kernel under the device (struct devexcl_info.caps).
 * Tests ask for these and never for a version number.
 */
/* The kernel names the reason of a refusal; else it is guessed afterwards. */
#define DEVEXCL_CAP_ERRNO		(1ULL << 0)
/* Any page of a large folio can be acquired, not only the first one. */
#define DEVEXCL_CAP_LARGE_FOLIO		(1ULL << 1)
/* Acquiring a page of a large folio leaves the folio's other pages alone. */
#define DEVEXCL_CAP_SINGLE_PTE		(1ULL << 2)
/* A device-exclusive entry counts as a mapping of the folio. */
#define DEVEXCL_CAP_MAPCOUNT		(1ULL << 3)
/* A contended folio is waited for; else acquiring it fails with EBUSY. */
#define DEVEXCL_CAP_WAITS		(1ULL << 4)

/**
 * struct devexcl_info - DEVEXCL_INFO: what device and kernel can do
 * @size: in: size of this structure
 * @flags: in: must be 0
 * @abi_version: out: DEVEXCL_ABI_VERSION of the module
 * @device: out: number of this device, N of /dev/devexclN
 * @ndevices: out: number of devices
 * @page_size: out: bytes
 * @max_mirrors: out: mirrored ranges a context can have
 * @max_events: out: event records that a context can hold unread
 * @max_gap_ns: out: longest gap of an atomic operation, nanoseconds
 * @restore_cause: out: &enum devexcl_cause that a CPU fault on a
 *	device-exclusive entry is announced with
 * @caps: out: DEVEXCL_CAP_*
 * @ops: out: bit n is set if &enum devexcl_op n is known
 * @broken: out: DEVEXCL_BROKEN_* modes that DEVEXCL_INJECT knows
 * @points: out: bit n is set if &enum devexcl_point n is known
 * @faults: out: bit n is set if &enum devexcl_fault n is known
 * @nengines: out: engines that the device has
 * @max_jobs: out: jobs a context can have, those included that have ended and
 *	that nobody has waited for
 * @patterns: out: bit n is set if &enum devexcl_pattern n is known
 */
struct devexcl_info {
	__u32 size;
	__u32 flags;
	__u32 abi_version;
	__u32 device;
	__u32 ndevices;
	__u32 page_size;
	__u32 max_mirrors;
	__u32 max_events;
	__u32 max_gap_ns;
	__u32 restore_cause;
	__aligned_u64 caps;
	__aligned_u64 ops;
	__aligned_u64 broken;
	__aligned_u64 points;
	__aligned_u64 faults;
	__u32 nengines;
	__u32 max_jobs;
	__aligned_u64 patterns;
};

/* Do not put the notifier calls that we caused ourselves into the stream. */
#define DEVEXCL_MIRROR_QUIET		(1U << 0)

/**
 * struct devexcl_mirror - DEVEXCL_MIRROR, DEVEXCL_UNMIRROR: a mirrored range
 * @size: in: size of this structure
 * @flags: in: DEVEXCL_MIRROR_*; must be 0 for DEVEXCL_UNMIRROR
 * @addr: in: first byte
 * @length: in: bytes
 * @id: out: number of the mirror, which its events carry
 * @reserved: must be 0
 *
 * A range may be mirrored before anything is mapped there. Before UNMIRROR
 * returns, the device has let go of all pages in the range.
 *
 * MIRROR: EFAULT if the range leaves the user's address space, EEXIST if it
 * overlaps another mirror of this context, ENOSPC if there are max_mirrors.
 * UNMIRROR: ENXIO if there is no mirror of exactly this range.
 */
struct devexcl_mirror {
	__u32 size;
	__u32 flags;
	__aligned_u64 addr;
	__aligned_u64 length;
	__u32 id;
	__u32 reserved;
};

/**
 * struct devexcl_acquire - DEVEXCL_ACQUIRE: make pages device-exclusive
 * @size: in: size of this structure
 * @flags: in: must be 0
 * @addr: in: first byte
 * @length: in: bytes
 * @status: in: pointer to an array of one __s32 a page, or 0. Out: 0 for each
 *	page that the device now holds, else the negative errno
 * @done: out: pages dealt with, from the first on; valid entries of @status
 * @acquired: out: pages that the device holds of those
 *
 * Pages are taken one after the other, in order. Without @status the call
 * stops at the first page that it cannot get; with @status it notes the error
 * and goes on. A page that this context holds already is left as it is, and
 * counts as acquired.
 *
 * Errors of a page:
 *
 *	EFAULT		not mapped, not writable, or of a kind that cannot be
 *			looked up (PFN mapping, guard, kernel memory)
 *	EOPNOTSUPP	not anonymous memory of the ordinary kind (file, shmem,
 *			hugetlb), or a page of a large folio that this kernel
 *			cannot take
 *	EBUSY		the folio was locked, or its mapping would not settle
 *	EHWPOISON	the page is poisoned
 */
struct devexcl_acquire {
	__u32 size;
	__u32 flags;
	__aligned_u64 addr;
	__aligned_u64 length;
	__aligned_u64 status;
	__aligned_u64 done;
	__aligned_u64 acquired;
};

/**
 * struct devexcl_release - DEVEXCL_RELEASE: the device lets go by itself
 * @size: in: size of this structure
 * @flags: in: must be 0
 * @addr: in: first byte
 * @length: in: bytes
 * @released: out: pages that the device held exclusively and let go
 *
 * The CPU finds such a page at its next touch. Ordinary device mappings in
 * the range are dropped as well.
 */
struct devexcl_release {
	__u32 size;
	__u32 flags;
	__aligned_u64 addr;
	__aligned_u64 length;
	__aligned_u64 released;
};

/**
 * enum devexcl_op - atomic operations
 * @DEVEXCL_OP_ADD: old + operand
 * @DEVEXCL_OP_SUB: old - operand
 * @DEVEXCL_OP_AND: old & operand
 * @DEVEXCL_OP_OR: old | operand
 * @DEVEXCL_OP_XOR: old ^ operand
 * @DEVEXCL_OP_XCHG: operand
 * @DEVEXCL_OP_CMPXCHG: old == compare ? operand : old
 * @DEVEXCL_OP_UMIN: unsigned minimum of old and operand
 * @DEVEXCL_OP_UMAX: unsigned maximum
 * @DEVEXCL_OP_SMIN: signed minimum
 * @DEVEXCL_OP_SMAX: signed maximum
 * @DEVEXCL_OP_INC_WRAP: old >= operand ? 0 : old + 1, unsigned
 * @DEVEXCL_OP_DEC_WRAP: old == 0 || old > operand ? operand : old - 1,
 *	unsigned
 * @DEVEXCL_OP_NR: number of operations
 */
enum devexcl_op {
	DEVEXCL_OP_ADD		= 0,
	DEVEXCL_OP_SUB		= 1,
	DEVEXCL_OP_AND		= 2,
	DEVEXCL_OP_OR		= 3,
	DEVEXCL_OP_XOR		= 4,
	DEVEXCL_OP_XCHG		= 5,
	DEVEXCL_OP_CMPXCHG	= 6,
	DEVEXCL_OP_UMIN		= 7,
	DEVEXCL_OP_UMAX		= 8,
	DEVEXCL_OP_SMIN		= 9,
	DEVEXCL_OP_SMAX		= 10,
	DEVEXCL_OP_INC_WRAP	= 11,
	DEVEXCL_OP_DEC_WRAP	= 12,
	DEVEXCL_OP_NR		= 13,
};

/**
 * struct devexcl_atomic_op - one operation of a batch
 * @addr: in: where, a multiple of @width
 * @operand: in: the operand; only its low @width bytes count
 * @compare: in: the expected value of CMPXCHG, likewise; else ignored
 * @old: out: value before the operation, zero-extended
 * @op: in: &enum devexcl_op
 * @width: in: 1, 2, 4 or 8 bytes
 * @reserved: must be 0
 * @error: out: 0, or the negative errno of this operation
 *
 * Errors of an operation:
 *
 *	EINVAL	unknown @op or @width, @reserved not zero, @addr is not a
 *		multiple of @width (which covers a straddled page)
 *	ENXIO	@addr is in no mirror
 *	EACCES	the device does not hold the page exclusively, and was not
 *		told to acquire it
 *	other	with DEVEXCL_ATOMIC_ACQUIRE, those of &struct devexcl_acquire
 */
struct devexcl_atomic_op {
	__aligned_u64 addr;
	__aligned_u64 operand;
	__aligned_u64 compare;
	__aligned_u64 old;
	__u8 op;
	__u8 width;
	__u16 reserved;
	__s32 error;
};

/* Acquire a page that the device does not hold, as a device fault would. */
#define DEVEXCL_ATOMIC_ACQUIRE		(1U << 0)
/* Load, gap, store instead of one atomic instruction. */
#define DEVEXCL_ATOMIC_GAP		(1U << 1)

/**
 * struct devexcl_atomic - DEVEXCL_ATOMIC: a batch of atomic operations
 * @size: in: size of this structure
 * @flags: in: DEVEXCL_ATOMIC_*
 * @ops: in: pointer to an array of &struct devexcl_atomic_op
 * @nr_ops: in: its length, not 0
 * @done: out: operations carried out, from the first on
 * @gap_ns: in: with DEVEXCL_ATOMIC_GAP, nanoseconds between load and store,
 *	at most max_gap_ns; else must be 0
 * @reserved: must be 0
 *
 * Operations run in order. The batch stops at the first one that fails, whose
 * @error says why and which is number @done; if that is the very first, the
 * call returns its error.
 *
 * In gap mode the operation is not atomic by itself: only exclusivity keeps
 * CPUs and other devices from coming in between. Operations of one context
 * on one page never overlap, in either mode.
 */
struct devexcl_atomic {
	__u32 size;
	__u32 flags;
	__aligned_u64 ops;
	__aligned_u64 nr_ops;
	__aligned_u64 done;
	__u32 gap_ns;
	__u32 reserved;
};

/* The device writes what @buf holds; else it reads into @buf. */
#define DEVEXCL_COPY_WRITE		(1U << 0)

/**
 * struct devexcl_copy - DEVEXCL_COPY: ordinary device reads and writes
 * @size: in: size of this structure
 * @flags: in: DEVEXCL_COPY_*
 * @addr: in: first byte in the mirrored range, any alignment
 * @length: in: bytes, not 0
 * @buf: in: pointer to @length bytes of the caller
 * @copied: out: bytes copied
 *
 * The device maps the pages as hmm_range_fault() finds them, without being
 * exclusive; a page that it holds exclusively is used as it is. Bytes are
 * copied as by memcpy(): who writes to them meanwhile may see words torn.
 *
 * Errors: EFAULT if a page is not mapped or the access is not permitted, EBUSY
 * if its mapping would not settle, ENXIO as for ranges of pages.
 */
struct devexcl_copy {
	__u32 size;
	__u32 flags;
	__aligned_u64 addr;
	__aligned_u64 length;
	__aligned_u64 buf;
	__aligned_u64 copied;
};

/* What the device may do with a page (struct devexcl_page.access). */
#define DEVEXCL_ACCESS_READ		(1U << 0)
#define DEVEXCL_ACCESS_WRITE		(1U << 1)
#define DEVEXCL_ACCESS_EXCLUSIVE	(1U << 2)
/* The device wrote to it since it mapped it. */
#define DEVEXCL_ACCESS_DIRTY		(1U << 3)

/**
 * struct devexcl_page - what the device has mapped at a page
 * @access: DEVEXCL_ACCESS_*; 0: nothing is mapped and the rest is 0
 * @order: order of the folio that the page belongs to
 * @since: sequence number of the event record that was the newest one when
 *	the device mapped the page
 * @pfn: page frame number
 * @refcount: references of the folio; the device itself holds none
 * @mapcount: mappings of the folio
 */
struct devexcl_page {
	__u32 access;
	__u32 order;
	__aligned_u64 since;
	__aligned_u64 pfn;
	__s32 refcount;
	__s32 mapcount;
};

/**
 * struct devexcl_query - DEVEXCL_QUERY: the device's page table
 * @size: in: size of this structure
 * @flags: in: must be 0
 * @addr: in: first byte
 * @length: in: bytes
 * @pages: in: pointer to an array of one &struct devexcl_page a page
 * @done: out: entries written
 */
struct devexcl_query {
	__u32 size;
	__u32 flags;
	__aligned_u64 addr;
	__aligned_u64 length;
	__aligned_u64 pages;
	__aligned_u64 done;
};

/* Errors that are counted one by one (struct devexcl_stats.errors). */
enum devexcl_error {
	DEVEXCL_ERROR_EFAULT		= 0,
	DEVEXCL_ERROR_EOPNOTSUPP	= 1,
	DEVEXCL_ERROR_EBUSY		= 2,
	DEVEXCL_ERROR_EINTR		= 3,
	DEVEXCL_ERROR_ENOMEM		= 4,
	DEVEXCL_ERROR_EINVAL		= 5,
	DEVEXCL_ERROR_ENXIO		= 6,
	DEVEXCL_ERROR_EACCES		= 7,
	DEVEXCL_ERROR_OTHER		= 8,
	DEVEXCL_ERROR_NR		= 9,
};

/**
 * struct devexcl_stats - DEVEXCL_STATS: counters of the context
 * @size: in: size of this structure
 * @flags: in: must be 0
 * @mirrors: out: mirrored ranges now
 * @held: out: pages held exclusively now
 * @mapped: out: pages mapped without being exclusive now
 * @table_bytes: out: memory of the device page tables now
 * @acquired: out: pages made exclusive
 * @released: out: pages that the device let go by itself
 * @own: out: own notifier calls filtered
 * @retries: out: times that the sequence had moved and work began anew
 * @ops: out: atomic operations carried out
 * @bytes_copied: out: by DEVEXCL_COPY
 * @events_lost: out: event records that did not fit into the stream
 * @calls: out: notifier calls by &enum devexcl_cause, own ones not counted
 * @lost: out: exclusive pages taken from the device by &enum devexcl_cause
 * @errors: out: errors of pages, operations and copies by
 *	&enum devexcl_error
 * @jobs: out: jobs now: queued, running, or ended and not waited for
 * @jobs_submitted: out: by DEVEXCL_SUBMIT
 * @jobs_completed: out: jobs that have ended by themselves, well or not
 * @jobs_cancelled: out: jobs that have ended with ECANCELED
 */
struct devexcl_stats {
	__u32 size;
	__u32 flags;
	__aligned_u64 mirrors;
	__aligned_u64 held;
	__aligned_u64 mapped;
	__aligned_u64 table_bytes;
	__aligned_u64 acquired;
	__aligned_u64 released;
	__aligned_u64 own;
	__aligned_u64 retries;
	__aligned_u64 ops;
	__aligned_u64 bytes_copied;
	__aligned_u64 events_lost;
	__aligned_u64 calls[DEVEXCL_CAUSE_NR];
	__aligned_u64 lost[DEVEXCL_CAUSE_NR];
	__aligned_u64 errors[DEVEXCL_ERROR_NR];
	__aligned_u64 jobs;
	__aligned_u64 jobs_submitted;
	__aligned_u64 jobs_completed;
	__aligned_u64 jobs_cancelled;
};

/*
 * Broken-driver modes. With them the device makes on purpose the mistakes
 * that a driver could make, so that a test can show that it would notice. The
 * kernel stays safe: a page that the device should have let go, and has not,
 * stays referenced until it does.
 */
/* Do not check the sequence before ACQUIRE installs a mapping. */
#define DEVEXCL_BROKEN_NO_RETRY			(1U << 0)
/* Take the own MMU_NOTIFY_EXCLUSIVE for somebody else's. */
#define DEVEXCL_BROKEN_NO_OWNER_FILTER		(1U << 1)
/* Do not mark written folios dirty. */
#define DEVEXCL_BROKEN_NO_DIRTY			(1U << 2)
/* Keep the mapping when a notifier says to drop it. */
#define DEVEXCL_BROKEN_IGNORE_INVALIDATE	(1U << 3)
/* Drop all locks between the look at the sequence and the mapping. */
#define DEVEXCL_BROKEN_UNLOCK_INSTALL		(1U << 4)
/* Drop the page table's lock between load and store of an operation. */
#define DEVEXCL_BROKEN_UNLOCK_STORE		(1U << 5)
/* Go on using what RELEASE and UNMIRROR said to let go. */
#define DEVEXCL_BROKEN_KEEP_RELEASED		(1U << 6)
/* Name an owner that all contexts of all devices have in common. */
#define DEVEXCL_BROKEN_COMMON_OWNER		(1U << 7)
/* Name no owner, and take events without an owner for own ones. */
#define DEVEXCL_BROKEN_NO_OWNER			(1U << 8)
/* Sample the sequence before the page is faulted in, not after. */
#define DEVEXCL_BROKEN_SAMPLE_EARLY		(1U << 9)
/* Keep the last page when a notifier says to drop several. */
#define DEVEXCL_BROKEN_OFF_BY_ONE		(1U << 10)
/* Report pages as acquired that could not be acquired. */
#define DEVEXCL_BROKEN_FALSE_SUCCESS		(1U << 11)

/**
 * enum devexcl_fault - where the device can be made to fail
 * @DEVEXCL_FAULT_NONE: nowhere
 * @DEVEXCL_FAULT_OPEN: memory for a context: ENOMEM
 * @DEVEXCL_FAULT_EVENTS: memory for its events: ENOMEM
 * @DEVEXCL_FAULT_MIRROR: memory for a mirror: ENOMEM
 * @DEVEXCL_FAULT_NOTIFIER: a notifier is not registered: ENOMEM
 * @DEVEXCL_FAULT_TREE: memory to find the mirror by: ENOMEM
 * @DEVEXCL_FAULT_TABLE: memory for the page table: ENOMEM
 * @DEVEXCL_FAULT_BUFFER: memory for a batch of work: ENOMEM
 * @DEVEXCL_FAULT_BREAKPOINT: memory for a breakpoint: ENOMEM
 * @DEVEXCL_FAULT_FILE: a file for it: ENFILE
 * @DEVEXCL_FAULT_LOCK: a lock that is waited for: EINTR, as by a signal
 * @DEVEXCL_FAULT_GUP: a page is not faulted in: EFAULT
 * @DEVEXCL_FAULT_EXCLUSIVE: a page is not made exclusive: EBUSY
 * @DEVEXCL_FAULT_HMM: hmm_range_fault() fails: EFAULT
 * @DEVEXCL_FAULT_SEQUENCE: the sequence has moved; work begins anew
 * @DEVEXCL_FAULT_COPY_IN: memory of the caller is not readable: EFAULT
 * @DEVEXCL_FAULT_COPY_OUT: memory of the caller is not writable: EFAULT
 * @DEVEXCL_FAULT_JOB: memory for a job: ENOMEM
 * @DEVEXCL_FAULT_ENGINE: the thread of an engine, if there is none yet: ENOMEM
 * @DEVEXCL_FAULT_WAIT: the wait for a job: EINTR, as by a signal
 * @DEVEXCL_FAULT_NR: number of them
 *
 * These are also the places where the kernel's fault injection can make the
 * device fail, under the name fail_devexcl: /proc/thread-self/fail-nth counts
 * them together with failures of allocations and the like, and debugfs has
 * the attributes.
 */
enum devexcl_fault {
	DEVEXCL_FAULT_NONE		= 0,
	DEVEXCL_FAULT_OPEN		= 1,
	DEVEXCL_FAULT_EVENTS		= 2,
	DEVEXCL_FAULT_MIRROR		= 3,
	DEVEXCL_FAULT_NOTIFIER		= 4,
	DEVEXCL_FAULT_TREE		= 5,
	DEVEXCL_FAULT_TABLE		= 6,
	DEVEXCL_FAULT_BUFFER		= 7,
	DEVEXCL_FAULT_BREAKPOINT	= 8,
	DEVEXCL_FAULT_FILE		= 9,
	DEVEXCL_FAULT_LOCK		= 10,
	DEVEXCL_FAULT_GUP		= 11,
	DEVEXCL_FAULT_EXCLUSIVE		= 12,
	DEVEXCL_FAULT_HMM		= 13,
	DEVEXCL_FAULT_SEQUENCE		= 14,
	DEVEXCL_FAULT_COPY_IN		= 15,
	DEVEXCL_FAULT_COPY_OUT		= 16,
	DEVEXCL_FAULT_JOB		= 17,
	DEVEXCL_FAULT_ENGINE		= 18,
	DEVEXCL_FAULT_WAIT		= 19,
	DEVEXCL_FAULT_NR		= 20,
};

/**
 * struct devexcl_inject - DEVEXCL_INJECT: make the device misbehave
 * @size: in: size of this structure
 * @flags: in: must be 0
 * @broken: in: DEVEXCL_BROKEN_* modes from now on, 0 for none
 * @retries: in: pretend that many times that the sequence has moved
 * @fail_nth: in: let the device fail at the n-th place of &enum devexcl_fault
 *	that it comes to from now on, once; 0: not at all
 * @left: out: what was left of the last call's @fail_nth: 0 if it has failed
 * @failed: out: &enum devexcl_fault where it has failed since the last call
 * @reserved: must be 0
 *
 * Concerns this context only. Pages that a broken mode kept are let go when
 * they are next released, invalidated or unmirrored without that mode.
 *
 * INJECT itself does not count, and neither do the copies of the structures
 * that ioctls take: only /proc/thread-self/fail-nth has those fail.
 */
struct devexcl_inject {
	__u32 size;
	__u32 flags;
	__u32 broken;
	__u32 retries;
	__u32 fail_nth;
	__u32 left;
	__u32 failed;
	__u32 reserved;
};

/**
 * enum devexcl_point - where the device can be stopped
 * @DEVEXCL_POINT_SAMPLED: it has sampled the sequence, and is going to make a
 *	page exclusive
 * @DEVEXCL_POINT_MADE: the page is exclusive, the folio and the mmap_lock are
 *	locked
 * @DEVEXCL_POINT_CHECK: the mmap_lock is dropped, the folio still locked; what
 *	comes next is the lock of the device's page table and the look at the
 *	sequence
 * @DEVEXCL_POINT_INSTALL: the sequence had not moved, and cannot move now: the
 *	page table is locked
 * @DEVEXCL_POINT_STORE: between load and store of an operation with
 *	DEVEXCL_ATOMIC_GAP; the page table is locked
 * @DEVEXCL_POINT_INVALIDATE: a notifier was called, and has done nothing yet
 * @DEVEXCL_POINT_INVALIDATED: the notifier is about to return; the device has
 *	let go
 * @DEVEXCL_POINT_RELEASE: RELEASE is going to let go
 * @DEVEXCL_POINT_FAULTED: pages are faulted in, by ACQUIRE or COPY, and the
 *	sequence is going to be sampled
 * @DEVEXCL_POINT_NR: number of points
 *
 * SAMPLED, CHECK and INSTALL are also points of COPY, which maps the page
 * without making it exclusive and has no folio locked.
 *
 * In a notifier the device does not stop if that must not sleep, nor in
 * reclaim, in kernel threads, and in tasks that exit.
 */
enum devexcl_point {
	DEVEXCL_POINT_SAMPLED		= 0,
	DEVEXCL_POINT_MADE		= 1,
	DEVEXCL_POINT_CHECK		= 2,
	DEVEXCL_POINT_INSTALL		= 3,
	DEVEXCL_POINT_STORE		= 4,
	DEVEXCL_POINT_INVALIDATE	= 5,
	DEVEXCL_POINT_INVALIDATED	= 6,
	DEVEXCL_POINT_RELEASE		= 7,
	DEVEXCL_POINT_FAULTED		= 8,
	DEVEXCL_POINT_NR		= 9,
};

/**
 * struct devexcl_breakpoint - DEVEXCL_BREAKPOINT: stop the device somewhere
 * @size: in: size of this structure
 * @flags: in: must be 0
 * @point: in: &enum devexcl_point
 * @pass: in: how often to go by before stopping
 * @addr: in: first byte of the pages it is about
 * @length: in: bytes; @addr and @length 0 means all pages
 * @fd: out: a file that is the breakpoint
 * @reserved: must be 0
 *
 * The first thread of this context that comes to the point, for one of these
 * pages, stops there. poll(2) on the file says POLLIN when it has, and closing
 * the file lets it go on; then, or if nobody has come, the breakpoint is gone.
 * Nobody stops for longer than ten seconds (poll(2) says POLLHUP then), or when
 * he is killed. The file is closed on exec, and keeps the context open.
 *
 * Errors: EINVAL for an unknown @point, and as for ranges of pages; ENOSPC if
 * there are too many; EMFILE, ENFILE.
 */
struct devexcl_breakpoint {
	__u32 size;
	__u32 flags;
	__u32 point;
	__u32 pass;
	__aligned_u64 addr;
	__aligned_u64 length;
	__s32 fd;
	__u32 reserved;
};

/**
 * enum devexcl_pattern - where the operations of a job go
 * @DEVEXCL_PATTERN_WORD: always the same word: @length is @width
 * @DEVEXCL_PATTERN_STRIDE: operation i goes to
 *	@addr + (i * @stride) % @length
 * @DEVEXCL_PATTERN_RANDOM: operation i goes to the word of @width bytes number
 *	(r * (@length / @width)) >> 64, where r is output i of splitmix64 that
 *	began with the state @seed
 * @DEVEXCL_PATTERN_CHASE: to the nodes of a linked list, the first one at
 *	@addr. A node begins with a 64-bit word, the address of the next node or
 *	0; operation i goes to the word @stride bytes after the beginning of
 *	node i. The link is read before the operation is carried out, by an OR
 *	with 0, which does not count
 * @DEVEXCL_PATTERN_NR: number of patterns
 */
enum devexcl_pattern {
	DEVEXCL_PATTERN_WORD	= 0,
	DEVEXCL_PATTERN_STRIDE	= 1,
	DEVEXCL_PATTERN_RANDOM	= 2,
	DEVEXCL_PATTERN_CHASE	= 3,
	DEVEXCL_PATTERN_NR	= 4,
};

/* As DEVEXCL_ATOMIC_ACQUIRE and DEVEXCL_ATOMIC_GAP. */
#define DEVEXCL_SUBMIT_ACQUIRE		(1U << 0)
#define DEVEXCL_SUBMIT_GAP		(1U << 1)
/* Signal @eventfd when the job has ended. */
#define DEVEXCL_SUBMIT_EVENTFD		(1U << 2)

/* The engine that has the least to do. */
#define DEVEXCL_ENGINE_ANY		(~0U)

/**
 * struct devexcl_submit - DEVEXCL_SUBMIT: have an engine work
 * @size: in: size of this structure
 * @flags: in: DEVEXCL_SUBMIT_*
 * @addr: in: first byte of what the job works on, a multiple of @width; of 8
 *	for CHASE
 * @length: in: bytes, a multiple of @width; the whole is inside one mirror
 * @count: in: operations of a pass, not 0
 * @repeat: in: passes, not 0; each does the same again
 * @stride: in: bytes, a multiple of @width. STRIDE: less than @length, not 0;
 *	CHASE: less than a page; else must be 0
 * @seed: in: of RANDOM; else must be 0
 * @operand: in: the operand; only its low @width bytes count
 * @compare: in: the expected value of CMPXCHG, likewise; for any operation,
 *	the value that is looked for to count @matched of &struct devexcl_wait
 * @op: in: &enum devexcl_op
 * @width: in: 1, 2, 4 or 8 bytes
 * @pattern: in: &enum devexcl_pattern
 * @engine: in: number of the engine, or DEVEXCL_ENGINE_ANY
 * @gap_ns: in: with DEVEXCL_SUBMIT_GAP, nanoseconds between load and store,
 *	at most max_gap_ns; else must be 0
 * @eventfd: in: with DEVEXCL_SUBMIT_EVENTFD, a file of eventfd(2); else must
 *	be 0
 * @id: out: number of the job in this context, not 0
 * @reserved: must be 0
 *
 * The call returns at once. Jobs of one engine run one after the other, in the
 * order in which they were submitted, by whichever context of the device; jobs
 * of different engines run at the same time. A job is a series of operations
 * as by ATOMIC, which ends at the first one that fails; CHASE ends a pass also
 * at the end of the list.
 *
 * When a job has ended, it makes a JOB record in the event stream (which
 * poll(2) tells of), adds 1 to its eventfd, and lets WAIT return; all at
 * once. Closing the context cancels its jobs, and returns after the last one
 * has ended. While the job waits for a page to be faulted in, by a handler of
 * userfaultfd perhaps, the address space stays, even if its owner exits.
 *
 * Errors: EINVAL for what does not keep to the above, EOVERFLOW and ENXIO as
 * for ranges of pages, EBADF (or EINVAL) if @eventfd is none, ENOSPC if there
 * are max_jobs.
 */
struct devexcl_submit {
	__u32 size;
	__u32 flags;
	__aligned_u64 addr;
	__aligned_u64 length;
	__aligned_u64 count;
	__aligned_u64 repeat;
	__aligned_u64 stride;
	__aligned_u64 seed;
	__aligned_u64 operand;
	__aligned_u64 compare;
	__u8 op;
	__u8 width;
	__u16 pattern;
	__u32 engine;
	__u32 gap_ns;
	__s32 eventfd;
	__u32 id;
	__u32 reserved;
};

/**
 * enum devexcl_job_state - how far a job is
 * @DEVEXCL_JOB_QUEUED: others of the engine come first
 * @DEVEXCL_JOB_RUNNING: the engine works on it
 * @DEVEXCL_JOB_ENDED: it does not any more
 */
enum devexcl_job_state {
	DEVEXCL_JOB_QUEUED	= 0,
	DEVEXCL_JOB_RUNNING	= 1,
	DEVEXCL_JOB_ENDED	= 2,
};

/* No timeout (struct devexcl_wait.timeout_ns). */
#define DEVEXCL_WAIT_FOREVER		(~0ULL)

/**
 * struct devexcl_wait - DEVEXCL_WAIT: wait for the end of a job, or look at it
 * @size: in: size of this structure
 * @flags: in: must be 0
 * @timeout_ns: in: how long to wait, nanoseconds; 0: only look
 * @id: in: number of the job
 * @state: out: &enum devexcl_job_state
 * @status: out: of a job that has ended, 0 or the negative errno why
 * @engine: out: number of the engine
 * @done: out: operations carried out
 * @passes: out: passes completed
 * @matched: out: operations that found the value @compare; of CMPXCHG, those
 *	that have exchanged it
 * @sum: out: sum of all values found, modulo 2^64
 * @last: out: value that the last operation found
 * @acquired: out: times that a page had to be acquired first
 * @run_ns: out: for how long the engine has worked on it, nanoseconds
 *
 * All numbers are of the same moment. They are told also if the call fails
 * with ETIME or EINTR, and grow by up to 256 operations at a time; nothing is
 * left out while the job waits for a page.
 *
 * If the job has ended, the call returns 0, and the job is forgotten. May be
 * called from any address space.
 *
 * Errors: ENOENT if there is no such job (any more), ETIME if it has not ended
 * in time (also with a timeout of 0), EINTR.
 *
 * A job's @status can be any error of &struct devexcl_atomic_op, and
 *
 *	ECANCELED	it was cancelled before it was done
 *	ESRCH		the address space is gone
 *	ENXIO		CHASE: a node was not inside the range; or it was
 *			unmirrored
 *	EINVAL		CHASE: a link is not a multiple of 8
 */
struct devexcl_wait {
	__u32 size;
	__u32 flags;
	__aligned_u64 timeout_ns;
	__u32 id;
	__u32 state;
	__s32 status;
	__u32 engine;
	__aligned_u64 done;
	__aligned_u64 passes;
	__aligned_u64 matched;
	__aligned_u64 sum;
	__aligned_u64 last;
	__aligned_u64 acquired;
	__aligned_u64 run_ns;
};

/**
 * struct devexcl_cancel - DEVEXCL_CANCEL: have a job end now
 * @size: in: size of this structure
 * @flags: in: must be 0
 * @id: in: number of the job
 * @reserved: must be 0
 *
 * A queued job ends with ECANCELED before the call returns. One that runs is
 * told to, wherever it is, also if it waits for a page or at a breakpoint; it
 * ends soon, with ECANCELED if there was anything left to do. May be called
 * from any address space.
 *
 * Errors: ENOENT if there is no such job (any more), EALREADY if it has ended.
 */
struct devexcl_cancel {
	__u32 size;
	__u32 flags;
	__u32 id;
	__u32 reserved;
};

/**
 * struct devexcl_floor - DEVEXCL_FLOOR: what no device can do quicker
 * @size: in: size of this structure
 * @flags: in: must be 0
 * @addr: in: first byte
 * @length: in: bytes
 * @done: out: pages converted, from the first on
 * @ns: out: nanoseconds that took
 *
 * For benchmarks only: has the kernel make pages device-exclusive, one after the
 * other, and does nothing with them: nothing is mapped into the device, and
 * there is neither a look at the sequence nor a record of an acquisition. This is
 * the time that DEVEXCL_ACQUIRE can be compared with. The CPU finds the pages
 * at its next touch. Of pages that a device held, it has to let go.
 *
 * The call stops at the first page that cannot be had; errors are those of
 * &struct devexcl_acquire.
 */
struct devexcl_floor {
	__u32 size;
	__u32 flags;
	__aligned_u64 addr;
	__aligned_u64 length;
	__aligned_u64 done;
	__aligned_u64 ns;
};

/**
 * enum devexcl_event_type - what an event record tells
 * @DEVEXCL_EVENT_INVALIDATE: a notifier was called
 * @DEVEXCL_EVENT_ACQUIRE: the device made a run of pages exclusive
 * @DEVEXCL_EVENT_RELEASE: the device let go by itself: RELEASE or UNMIRROR
 * @DEVEXCL_EVENT_MAP: the device mapped a run of pages for COPY
 * @DEVEXCL_EVENT_LOST: records are missing here, for want of space
 * @DEVEXCL_EVENT_JOB: a job has ended
 */
enum devexcl_event_type {
	DEVEXCL_EVENT_INVALIDATE	= 0,
	DEVEXCL_EVENT_ACQUIRE		= 1,
	DEVEXCL_EVENT_RELEASE		= 2,
	DEVEXCL_EVENT_MAP		= 3,
	DEVEXCL_EVENT_LOST		= 4,
	DEVEXCL_EVENT_JOB		= 5,
};

/**
 * enum devexcl_owner - whose MMU_NOTIFY_EXCLUSIVE it was
 * @DEVEXCL_OWNER_NONE: the call named no owner
 * @DEVEXCL_OWNER_OWN: this context
 * @DEVEXCL_OWNER_FOREIGN: somebody else
 */
enum devexcl_owner {
	DEVEXCL_OWNER_NONE	= 0,
	DEVEXCL_OWNER_OWN	= 1,
	DEVEXCL_OWNER_FOREIGN	= 2,
};

/**
 * struct devexcl_event - one record of the event stream
 * @seq: number of the record in this context, from 1 on
 * @time_ns: CLOCK_MONOTONIC
 * @start: first byte concerned, within the mirror
 * @end: byte after the last one
 * @type: &enum devexcl_event_type
 * @cause: &enum devexcl_cause of an INVALIDATE, else 0
 * @owner: &enum devexcl_owner of an INVALIDATE, else 0
 * @mirror: id of the mirror
 * @exclusive: exclusive pages that were dropped, or acquired
 * @shared: other mappings that were dropped, or made
 * @job: id of the job, of a JOB record
 * @status: 0 or the negative errno, of a JOB record
 * @lost: records missing, of a LOST record; else 0
 *
 * read(2) returns whole records, at least one; it blocks while there is none
 * (EAGAIN with O_NONBLOCK), and is EINVAL if the buffer is too small for one.
 * poll(2) says EPOLLIN when there is one.
 */
struct devexcl_event {
	__aligned_u64 seq;
	__aligned_u64 time_ns;
	__aligned_u64 start;
	__aligned_u64 end;
	__u32 type;
	__u32 cause;
	__u32 owner;
	__u32 mirror;
	union {
		__u32 exclusive;
		__u32 job;
	};
	union {
		__u32 shared;
		__s32 status;
	};
	__aligned_u64 lost;
};

/*
 * The aperture
 *
 * A second device, /dev/devexcl_aperture: memory of the device, and system
 * memory that it manages, mapped into processes with mmap() as graphics
 * drivers, perf and others do it. It chooses page by page which of the kernel's
 * functions puts a page into an address space, and with which protection.
 *
 * An open file is a context. It owns objects, which live until the file's last
 * user is gone; a mapping is such a user. Any process that has the file may use
 * it. The same rules as above hold for structures and errors; nothing here is
 * bound to an address space, but INSPECT looks at the caller's. An object whose
 * number could not be told (EFAULT) is not taken back.
 *
 * /dev/devexcl_aperture_prepare is the same device behind the newer hook
 * (mmap_prepare), on kernels that have it for this purpose.
 */
#define DEVEXCL_APERTURE_INFO		_IO(DEVEXCL_IOC_TYPE, 0x40)
#define DEVEXCL_APERTURE_CREATE		_IO(DEVEXCL_IOC_TYPE, 0x41)
#define DEVEXCL_APERTURE_POLICY		_IO(DEVEXCL_IOC_TYPE, 0x42)
#define DEVEXCL_APERTURE_MOVE		_IO(DEVEXCL_IOC_TYPE, 0x43)
#define DEVEXCL_APERTURE_ZAP		_IO(DEVEXCL_IOC_TYPE, 0x44)
#define DEVEXCL_APERTURE_CLEAN		_IO(DEVEXCL_IOC_TYPE, 0x45)
#define DEVEXCL_APERTURE_PAGES		_IO(DEVEXCL_IOC_TYPE, 0x46)
#define DEVEXCL_APERTURE_COPY		_IO(DEVEXCL_IOC_TYPE, 0x47)
#define DEVEXCL_APERTURE_INJECT		_IO(DEVEXCL_IOC_TYPE, 0x48)
#define DEVEXCL_APERTURE_INSPECT	_IO(DEVEXCL_IOC_TYPE, 0x49)

/**
 * enum devexcl_placement - where an object's memory is
 * @DEVEXCL_PLACE_SYSTEM: system memory, single pages
 * @DEVEXCL_PLACE_BUFFER: system memory, contiguous, as a kernel buffer is;
 *	single pages all the same
 * @DEVEXCL_PLACE_FOLIO: one large folio of system memory, as large as what one
 *	entry of a page middle directory maps
 * @DEVEXCL_PLACE_IO: memory of the device, contiguous: see &enum devexcl_io
 * @DEVEXCL_PLACE_NR: number of placements
 *
 * BUFFER and IO are aligned to their size, up to that of a huge page.
 */
enum devexcl_placement {
	DEVEXCL_PLACE_SYSTEM	= 0,
	DEVEXCL_PLACE_BUFFER	= 1,
	DEVEXCL_PLACE_FOLIO	= 2,
	DEVEXCL_PLACE_IO	= 3,
	DEVEXCL_PLACE_NR	= 4,
};

/**
 * enum devexcl_io - what DEVEXCL_PLACE_IO is on this machine
 * @DEVEXCL_IO_STANDIN: reserved pages of system memory, for want of a device
 * @DEVEXCL_IO_BAR: memory of a PCI device, which has no struct pages
 */
enum devexcl_io {
	DEVEXCL_IO_STANDIN	= 0,
	DEVEXCL_IO_BAR		= 1,
};

/**
 * enum devexcl_caching - how the CPU caches a page
 * @DEVEXCL_CACHING_WB: write-back
 * @DEVEXCL_CACHING_WC: write-combining
 * @DEVEXCL_CACHING_UC: uncached
 * @DEVEXCL_CACHING_OTHER: something else; output only
 * @DEVEXCL_CACHING_NR: number of modes
 */
enum devexcl_caching {
	DEVEXCL_CACHING_WB	= 0,
	DEVEXCL_CACHING_WC	= 1,
	DEVEXCL_CACHING_UC	= 2,
	DEVEXCL_CACHING_OTHER	= 3,
	DEVEXCL_CACHING_NR	= 4,
};

/**
 * enum devexcl_vma - what kind of special mapping mmap() makes
 * @DEVEXCL_VMA_PLAIN: whatever the insert function makes of it by itself
 * @DEVEXCL_VMA_PFN: VM_PFNMAP, whose entries have no struct page to mm
 * @DEVEXCL_VMA_MIXED: VM_MIXEDMAP, where that depends on the entry
 * @DEVEXCL_VMA_NR: number of kinds
 */
enum devexcl_vma {
	DEVEXCL_VMA_PLAIN	= 0,
	DEVEXCL_VMA_PFN		= 1,
	DEVEXCL_VMA_MIXED	= 2,
	DEVEXCL_VMA_NR		= 3,
};

/**
 * enum devexcl_map - what mmap() itself inserts
 * @DEVEXCL_MAP_FAULT: nothing: pages are inserted when they are touched
 * @DEVEXCL_MAP_INSERT_PAGE: vm_insert_page(), page by page
 * @DEVEXCL_MAP_INSERT_PAGES: vm_insert_pages()
 * @DEVEXCL_MAP_PAGES: vm_map_pages()
 * @DEVEXCL_MAP_PAGES_ZERO: vm_map_pages_zero(): from the object's first page on
 *	whatever the offset
 * @DEVEXCL_MAP_REMAP_PFN: remap_pfn_range(), in parts
 * @DEVEXCL_MAP_IOMAP: vm_iomap_memory()
 * @DEVEXCL_MAP_NR: number of ways
 *
 * Through /dev/devexcl_aperture_prepare there are FAULT, INSERT_PAGES
 * (mmap_action_map_kernel_pages_full()), REMAP_PFN (mmap_action_remap_full())
 * and IOMAP (mmap_action_ioremap_full()); the others are EOPNOTSUPP there.
 */
enum devexcl_map {
	DEVEXCL_MAP_FAULT		= 0,
	DEVEXCL_MAP_INSERT_PAGE		= 1,
	DEVEXCL_MAP_INSERT_PAGES	= 2,
	DEVEXCL_MAP_PAGES		= 3,
	DEVEXCL_MAP_PAGES_ZERO		= 4,
	DEVEXCL_MAP_REMAP_PFN		= 5,
	DEVEXCL_MAP_IOMAP		= 6,
	DEVEXCL_MAP_NR			= 7,
};

/**
 * enum devexcl_insert - how a page is inserted when it is touched
 * @DEVEXCL_INSERT_NONE: not at all: SIGBUS
 * @DEVEXCL_INSERT_PFN: vmf_insert_pfn()
 * @DEVEXCL_INSERT_PFN_PROT: vmf_insert_pfn_prot()
 * @DEVEXCL_INSERT_MIXED: vmf_insert_mixed()
 * @DEVEXCL_INSERT_MIXED_PROT: vmf_insert_mixed_prot()
 * @DEVEXCL_INSERT_MIXED_MKWRITE: vmf_insert_mixed_mkwrite(), for a read as for
 *	a write
 * @DEVEXCL_INSERT_PAGE: vm_insert_page()
 * @DEVEXCL_INSERT_PAGES: vm_insert_pages(), this page and those that follow
 * @DEVEXCL_INSERT_PAGE_MKWRITE: vmf_insert_page_mkwrite(), writable
 * @DEVEXCL_INSERT_PFN_PMD: vmf_insert_pfn_pmd(); where that does not fit,
 *	vmf_insert_pfn()
 * @DEVEXCL_INSERT_FOLIO_PMD: vmf_insert_folio_pmd(); where that does not fit,
 *	vm_insert_page()
 * @DEVEXCL_INSERT_NR: number of ways
 *
 * PFN, PFN_PROT and PFN_PMD are for DEVEXCL_VMA_PFN, all others for PLAIN and
 * MIXED; but PFN and PFN_PROT may be used with MIXED on memory that has no
 * struct pages, and MIXED* of a page that is not the zero page, PAGE and PAGES
 * not with PLAIN. What does not fit is SIGBUS. The *MKWRITE ones are
 * SIGBUS on private mappings, unless these can never be made writable.
 */
enum devexcl_insert {
	DEVEXCL_INSERT_NONE		= 0,
	DEVEXCL_INSERT_PFN		= 1,
	DEVEXCL_INSERT_PFN_PROT		= 2,
	DEVEXCL_INSERT_MIXED		= 3,
	DEVEXCL_INSERT_MIXED_PROT	= 4,
	DEVEXCL_INSERT_MIXED_MKWRITE	= 5,
	DEVEXCL_INSERT_PAGE		= 6,
	DEVEXCL_INSERT_PAGES		= 7,
	DEVEXCL_INSERT_PAGE_MKWRITE	= 8,
	DEVEXCL_INSERT_PFN_PMD		= 9,
	DEVEXCL_INSERT_FOLIO_PMD	= 10,
	DEVEXCL_INSERT_NR		= 11,
};

/* What this kernel can do (struct devexcl_aperture_info.caps). */
/* Functions that insert pages check where the zero page may be mapped. */
#define DEVEXCL_APERTURE_CAP_ZERO_CHECKED	(1ULL << 0)
/* Mappings of the zero page are not counted, by whatever they are made. */
#define DEVEXCL_APERTURE_CAP_ZERO_UNCOUNTED	(1ULL << 1)
/* DEVEXCL_APERTURE_CLEAN works. */
#define DEVEXCL_APERTURE_CAP_CLEAN		(1ULL << 2)
/* A huge entry says that mm must not look for a struct page. */
#define DEVEXCL_APERTURE_CAP_PMD_SPECIAL	(1ULL << 3)
/* /dev/devexcl_aperture_prepare is there. */
#define DEVEXCL_APERTURE_CAP_PREPARE		(1ULL << 4)
/* An entry's caching mode follows what the kernel knows of the memory. */
#define DEVEXCL_APERTURE_CAP_PAT		(1ULL << 5)

/**
 * struct devexcl_aperture_info - DEVEXCL_APERTURE_INFO: device and kernel
 * @size: in: size of this structure
 * @flags: in: must be 0
 * @abi_version: out: DEVEXCL_ABI_VERSION of the module
 * @page_size: out: bytes
 * @pmd_pages: out: pages that one huge entry maps
 * @max_objects: out: objects that a context can have
 * @max_pages: out: pages that an object can have
 * @max_batch: out: pages that one fault can insert
 * @max_pause_ms: out: longest pause of a MOVE, milliseconds
 * @io: out: &enum devexcl_io
 * @io_pages: out: pages of IO memory that all objects share; 0: no limit but
 *	memory
 * @inserts: out: bit n is set if &enum devexcl_insert n is there
 * @maps: out: bit n is set if &enum devexcl_map n is there, through this file
 * @broken: out: DEVEXCL_APERTURE_BROKEN_* that INJECT knows
 * @caps: out: DEVEXCL_APERTURE_CAP_*
 */
struct devexcl_aperture_info {
	__u32 size;
	__u32 flags;
	__u32 abi_version;
	__u32 page_size;
	__u32 pmd_pages;
	__u32 max_objects;
	__u32 max_pages;
	__u32 max_batch;
	__u32 max_pause_ms;
	__u32 io;
	__u32 io_pages;
	__u32 inserts;
	__u32 maps;
	__u32 broken;
	__aligned_u64 caps;
};

/* Mappings have VM_IO: mm leaves them alone. */
#define DEVEXCL_CREATE_VM_IO		(1U << 0)
/* The mapping has a page_mkwrite hook. */
#define DEVEXCL_CREATE_PAGE_MKWRITE	(1U << 1)
/* The mapping has a pfn_mkwrite hook. */
#define DEVEXCL_CREATE_PFN_MKWRITE	(1U << 2)
/* Mappings can never be made writable: a writable one is refused (EPERM). */
#define DEVEXCL_CREATE_READ_ONLY	(1U << 3)
/*
 * What mmap() inserts is read-only, whatever the mapping is: the first write to a
 * page is announced, if there is a hook. It is not for FAULT, nor for INSERT_PAGES
 * through /dev/devexcl_aperture_prepare, where mm takes the mapping's protection.
 */
#define DEVEXCL_CREATE_MAP_READ_ONLY	(1U << 4)

/**
 * struct devexcl_aperture_create - DEVEXCL_APERTURE_CREATE: a new object
 * @size: in: size of this structure
 * @flags: in: DEVEXCL_CREATE_*
 * @pages: in: how many, from 1 to max_pages; FOLIO: pmd_pages
 * @placement: in: &enum devexcl_placement
 * @caching: in: &enum devexcl_caching of the memory; FOLIO: WB
 * @vma: in: &enum devexcl_vma
 * @map: in: &enum devexcl_map
 * @vma_caching: in: &enum devexcl_caching that mappings are given as a whole
 *	(vm_page_prot)
 * @batch: in: pages that a fault inserts at most, from the one that was touched
 *	on; from 1 to max_batch
 * @part: in: REMAP_PFN: pages that are mapped by one call; 0: all. Else 0
 * @id: out: number of the object
 * @reserved: must be 0
 * @offset: out: mmap() it at this offset of the file, or further in
 *
 * The memory is zero. All pages have DEVEXCL_INSERT_NONE, the object's caching,
 * the mapping's protection, and allow writing.
 *
 * Errors: ENOSPC if there are max_objects, or IO memory is used up;
 * EOPNOTSUPP for what this kernel lacks, and for a FOLIO that is not WB; EINVAL
 * for a @map that does not go with @vma.
 *
 * mmap(): ENXIO if no object is there, or it ends before the mapping does;
 * EPERM for a writable mapping of a READ_ONLY object; EINVAL for a private
 * mapping with DEVEXCL_VMA_PFN, unless it can never be made writable, or
 * REMAP_PFN or IOMAP makes it, and for pages that @map cannot take; EACCES if
 * the kernel would let the zero page be written to; EIO if INJECT said so; EINTR
 * if the caller is killed; else what the kernel's function answers.
 */
struct devexcl_aperture_create {
	__u32 size;
	__u32 flags;
	__u32 pages;
	__u32 placement;
	__u32 caching;
	__u32 vma;
	__u32 map;
	__u32 vma_caching;
	__u32 batch;
	__u32 part;
	__u32 id;
	__u32 reserved;
	__aligned_u64 offset;
};

/* This page is the zero page; the object's own page is not used. */
#define DEVEXCL_POLICY_ZERO		(1U << 0)
/* The entry is read-only whatever the mapping is. Needs a *_PROT insert. */
#define DEVEXCL_POLICY_READ_ONLY	(1U << 1)
/* The mkwrite hooks answer SIGBUS. */
#define DEVEXCL_POLICY_REFUSE_WRITE	(1U << 2)

/**
 * struct devexcl_aperture_policy - DEVEXCL_APERTURE_POLICY: what pages are like
 * @size: in: size of this structure
 * @flags: in: DEVEXCL_POLICY_*
 * @id: in: the object
 * @first: in: first page
 * @count: in: pages
 * @insert: in: &enum devexcl_insert
 * @caching: in: &enum devexcl_caching of these pages. IO memory and a FOLIO
 *	have one for all pages, which MOVE changes
 * @reserved: must be 0
 *
 * The pages are unmapped everywhere, but private copies of them stay, and so
 * do the entries that remap_pfn_range() made in private mappings: mm cannot find
 * them by their offset in the file. Nor can it find those of an mmap() that is
 * not complete.
 *
 * Errors: ENOENT if there is no such object, EINVAL for pages that it has not and
 * for a caching mode that they cannot have, EOPNOTSUPP for what this kernel
 * lacks. If the caching mode cannot be changed for want of memory (ENOMEM), the
 * pages are unmapped and have WB, and the policy is what it was.
 */
struct devexcl_aperture_policy {
	__u32 size;
	__u32 flags;
	__u32 id;
	__u32 first;
	__u32 count;
	__u32 insert;
	__u32 caching;
	__u32 reserved;
};

/* Private copies of the pages are dropped as well. */
#define DEVEXCL_MOVE_COPIES		(1U << 0)

/**
 * struct devexcl_aperture_move - DEVEXCL_APERTURE_MOVE: to another placement
 * @size: in: size of this structure
 * @flags: in: DEVEXCL_MOVE_*
 * @id: in: the object
 * @placement: in: &enum devexcl_placement
 * @caching: in: &enum devexcl_caching; all pages have it afterwards
 * @pause_ms: in: how long to wait between unmapping and copying, at most
 *	max_pause_ms; faults wait as long
 *
 * Entries of the pages are zapped first, then the contents are copied, then
 * faults find the new placement. The policies stay.
 *
 * Errors: ENOENT; ENOSPC; EOPNOTSUPP for an object whose pages are inserted by
 * mmap() itself, as nobody finds the entries of a mapping that is not complete,
 * and for what CREATE does not support; EINTR if the caller is killed in the
 * pause, and nothing was moved; EBUSY for a second MOVE without zapping, and for
 * one of an object with huge or *MKWRITE pages: mm would warn of entries that
 * are left.
 */
struct devexcl_aperture_move {
	__u32 size;
	__u32 flags;
	__u32 id;
	__u32 placement;
	__u32 caching;
	__u32 pause_ms;
};

/**
 * struct devexcl_aperture_range - DEVEXCL_APERTURE_ZAP, DEVEXCL_APERTURE_CLEAN
 * @size: in: size of this structure
 * @flags: in: must be 0; ZAP: DEVEXCL_MOVE_COPIES
 * @id: in: the object
 * @first: in: first page
 * @count: in: pages
 * @reserved: must be 0
 * @protected: out: CLEAN: entries that were writable
 * @cleaned: out: CLEAN: entries that were dirty
 *
 * ZAP unmaps the pages everywhere, as POLICY does. CLEAN makes the entries of
 * all shared mappings clean and read-only, as writeback does, so that the next
 * write is announced again.
 *
 * Errors: ENOENT; EINVAL for pages that the object has not; CLEAN: EOPNOTSUPP
 * if the kernel cannot, or for an object with huge entries.
 */
struct devexcl_aperture_range {
	__u32 size;
	__u32 flags;
	__u32 id;
	__u32 first;
	__u32 count;
	__u32 reserved;
	__aligned_u64 protected;
	__aligned_u64 cleaned;
};

/**
 * struct devexcl_aperture_page - a page of an object
 * @pfn: page frame number of the memory; the zero page's if that is used
 * @faults: times that the fault handler was called for it
 * @page_mkwrites: times that page_mkwrite was called
 * @pfn_mkwrites: times that pfn_mkwrite was called
 * @error: what the last insertion of it answered: 0 or a negative errno, where
 *	EFAULT stands for VM_FAULT_SIGBUS
 * @refcount: references of its folio; 0 without a struct page
 * @mapcount: mappings of its folio; 0 without a struct page
 */
struct devexcl_aperture_page {
	__aligned_u64 pfn;
	__u32 faults;
	__u32 page_mkwrites;
	__u32 pfn_mkwrites;
	__s32 error;
	__s32 refcount;
	__s32 mapcount;
};

/**
 * struct devexcl_aperture_pages - DEVEXCL_APERTURE_PAGES: an object's pages
 * @size: in: size of this structure
 * @flags: in: must be 0
 * @id: in: the object
 * @first: in: first page
 * @pages: in: pointer to an array of &struct devexcl_aperture_page
 * @count: in: its length
 * @done: out: entries written
 * @placement: out: &enum devexcl_placement
 * @caching: out: &enum devexcl_caching of page @first
 */
struct devexcl_aperture_pages {
	__u32 size;
	__u32 flags;
	__u32 id;
	__u32 first;
	__aligned_u64 pages;
	__u32 count;
	__u32 done;
	__u32 placement;
	__u32 caching;
};

/**
 * struct devexcl_aperture_copy - DEVEXCL_APERTURE_COPY: the device's own access
 * @size: in: size of this structure
 * @flags: in: DEVEXCL_COPY_WRITE or 0
 * @id: in: the object
 * @reserved: must be 0
 * @offset: in: bytes into the object
 * @length: in: bytes, not 0
 * @buf: in: pointer to @length bytes of the caller
 * @copied: out: bytes copied
 *
 * It is the object's own memory that is read and written, also where the
 * zero page is mapped instead.
 *
 * Errors: ENOENT; EINVAL if the object ends before that.
 */
struct devexcl_aperture_copy {
	__u32 size;
	__u32 flags;
	__u32 id;
	__u32 reserved;
	__aligned_u64 offset;
	__aligned_u64 length;
	__aligned_u64 buf;
	__aligned_u64 copied;
};

/* MOVE does not unmap; the old memory stays allocated. Once an object. */
#define DEVEXCL_APERTURE_BROKEN_NO_ZAP		(1U << 0)
/* MOVE forgets about the caching mode: it is write-back. */
#define DEVEXCL_APERTURE_BROKEN_WB		(1U << 1)
/* The mkwrite hooks allow what they should refuse, but for the zero page. */
#define DEVEXCL_APERTURE_BROKEN_ALLOW_WRITE	(1U << 2)
/*
 * It is left to the kernel where the zero page may be mapped. If the kernel lets it
 * be written to, the page is taken away again at once; the error is EPERM.
 */
#define DEVEXCL_APERTURE_BROKEN_TRUST_ZERO	(1U << 3)

/**
 * struct devexcl_aperture_inject - DEVEXCL_APERTURE_INJECT: misbehave
 * @size: in: size of this structure
 * @flags: in: must be 0
 * @id: in: the object
 * @broken: in: DEVEXCL_APERTURE_BROKEN_* from now on, 0 for none
 * @fail_after: in: the next mmap() that inserts pages one by one or in parts
 *	fails when it has inserted that many; 0: none does
 * @reserved: must be 0
 */
struct devexcl_aperture_inject {
	__u32 size;
	__u32 flags;
	__u32 id;
	__u32 broken;
	__u32 fail_after;
	__u32 reserved;
};

/**
 * enum devexcl_entry_kind - what a page table has for a page
 * @DEVEXCL_ENTRY_NONE: nothing, nor perhaps a page table
 * @DEVEXCL_ENTRY_PRESENT: a page
 * @DEVEXCL_ENTRY_HUGE: a part of a huge page
 * @DEVEXCL_ENTRY_OTHER: not present but not nothing: swapped out, migrating,
 *	a marker, ...
 */
enum devexcl_entry_kind {
	DEVEXCL_ENTRY_NONE	= 0,
	DEVEXCL_ENTRY_PRESENT	= 1,
	DEVEXCL_ENTRY_HUGE	= 2,
	DEVEXCL_ENTRY_OTHER	= 3,
};

/* What an entry says (struct devexcl_entry.flags). */
#define DEVEXCL_ENTRY_WRITE		(1U << 0)
#define DEVEXCL_ENTRY_YOUNG		(1U << 1)
#define DEVEXCL_ENTRY_DIRTY		(1U << 2)
#define DEVEXCL_ENTRY_SPECIAL		(1U << 3)
#define DEVEXCL_ENTRY_SOFT_DIRTY	(1U << 4)
#define DEVEXCL_ENTRY_UFFD_WP		(1U << 5)
/* The page is the zero page. */
#define DEVEXCL_ENTRY_ZERO		(1U << 6)
/* There is a struct page for it. */
#define DEVEXCL_ENTRY_HAS_PAGE		(1U << 7)
/* The page is anonymous memory. */
#define DEVEXCL_ENTRY_ANON		(1U << 8)

/**
 * struct devexcl_entry - an entry of the caller's page table
 * @kind: &enum devexcl_entry_kind
 * @flags: DEVEXCL_ENTRY_*, if present or huge; else 0
 * @raw: the entry as it is, also if it is neither
 * @prot: its protection bits: the entry without the page frame number
 * @pfn: page frame number of this very page, if present or huge
 * @caching: &enum devexcl_caching, if present or huge
 * @reserved: 0
 * @refcount: references of the folio, if the entry counts as one, or the page
 *	is the zero page; else 0
 * @mapcount: mappings of the folio, likewise
 */
struct devexcl_entry {
	__u32 kind;
	__u32 flags;
	__aligned_u64 raw;
	__aligned_u64 prot;
	__aligned_u64 pfn;
	__u32 caching;
	__u32 reserved;
	__s32 refcount;
	__s32 mapcount;
};

/**
 * struct devexcl_aperture_inspect - DEVEXCL_APERTURE_INSPECT: the page table
 * @size: in: size of this structure
 * @flags: in: must be 0
 * @addr: in: first byte, in the caller's address space
 * @length: in: bytes
 * @entries: in: pointer to an array of one &struct devexcl_entry a page
 * @done: out: entries written
 *
 * Nothing is faulted in, and no page table made. The range need not be mapped,
 * nor be the device's; but hugetlb is refused. Each entry is looked at under
 * its page table's lock, so it is true for a moment; several need not be
 * true at the same one.
 *
 * Errors: EINVAL and EOVERFLOW as for ranges of pages; EFAULT if the range
 * leaves the user's address space; EOPNOTSUPP for hugetlb.
 */
struct devexcl_aperture_inspect {
	__u32 size;
	__u32 flags;
	__aligned_u64 addr;
	__aligned_u64 length;
	__aligned_u64 entries;
	__aligned_u64 done;
};

#endif /* _UAPI_LINUX_TEST_DEVEXCL_H */
