/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What headers lack that are older than the kernel that runs
 *
 * Kernels refuse what they do not know, and tests skip what is refused.
 */
#ifndef _DEVEXCL_MISSING_H
#define _DEVEXCL_MISSING_H

#include <sys/mman.h>
#include <sys/syscall.h>

#include <linux/types.h>
#include <linux/userfaultfd.h>

#ifndef MADV_HUGEPAGE
#define MADV_HUGEPAGE		14
#define MADV_NOHUGEPAGE		15
#endif
#ifndef MADV_COLD
#define MADV_COLD		20
#define MADV_PAGEOUT		21
#endif
#ifndef MADV_POPULATE_READ
#define MADV_POPULATE_READ	22
#define MADV_POPULATE_WRITE	23
#endif
#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE		25
#endif
#ifndef MADV_HWPOISON
#define MADV_HWPOISON		100
#endif
#ifndef MADV_SOFT_OFFLINE
#define MADV_SOFT_OFFLINE	101
#endif
#ifndef MADV_GUARD_INSTALL
#define MADV_GUARD_INSTALL	102
#define MADV_GUARD_REMOVE	103
#endif

#ifndef MAP_DROPPABLE
#define MAP_DROPPABLE		0x08
#endif
#ifndef MAP_FIXED_NOREPLACE
#define MAP_FIXED_NOREPLACE	0x100000
#endif

#ifndef SYS_process_mrelease
#define SYS_process_mrelease	448
#endif
#ifndef SYS_mseal
#define SYS_mseal		462
#endif

#ifndef UFFDIO_POISON
#define UFFD_FEATURE_POISON	0x4000
#define UFFDIO_POISON		_IOWR(UFFDIO, 0x08, struct uffdio_poison)

struct uffdio_poison {
	struct uffdio_range range;
	__u64 mode;
	__s64 updated;
};
#endif

#ifndef UFFD_FEATURE_WP_ASYNC
#define UFFD_FEATURE_WP_ASYNC	0x8000
#endif

#ifndef UFFDIO_MOVE
#define UFFD_FEATURE_MOVE	0x10000
#define UFFDIO_MOVE		_IOWR(UFFDIO, 0x05, struct uffdio_move)

struct uffdio_move {
	__u64 dst;
	__u64 src;
	__u64 len;
	__u64 mode;
	__s64 move;
};
#endif

#ifndef UFFD_FEATURE_RWP
#define UFFD_FEATURE_RWP	0x20000
#define UFFD_FEATURE_RWP_ASYNC	0x40000
#define UFFDIO_REGISTER_MODE_RWP	8
#define UFFD_PAGEFAULT_FLAG_RWP	8
#define UFFDIO_RWPROTECT_MODE_RWP	1
#define UFFDIO_RWPROTECT	_IOWR(UFFDIO, 0x09, struct uffdio_rwprotect)

struct uffdio_rwprotect {
	struct uffdio_range range;
	__u64 mode;
};
#endif

#endif /* _DEVEXCL_MISSING_H */
