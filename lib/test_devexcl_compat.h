/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Differences between kernel versions, and nothing else
 *
 * From Linux 5.14 to 6.14 the kernel offers make_device_exclusive_range(),
 * from 6.15 on make_device_exclusive(), which works on a single page. The
 * device is written against the latter.
 */
#ifndef _TEST_DEVEXCL_COMPAT_H
#define _TEST_DEVEXCL_COMPAT_H

#include <linux/err.h>
#include <linux/eventfd.h>
#include <linux/kcov.h>
#include <linux/fault-inject.h>
#include <linux/mm.h>
#include <linux/rmap.h>
#include <linux/version.h>
#include <uapi/linux/test_devexcl_uapi.h>

#if LINUX_VERSION_CODE >= KERNEL_VERSION(6, 5, 0)
#define devexcl_gup_remote(mm, addr, nr, flags, pages, locked)		\
	get_user_pages_remote(mm, addr, nr, flags, pages, locked)
#else
#define devexcl_gup_remote(mm, addr, nr, flags, pages, locked)		\
	get_user_pages_remote(mm, addr, nr, flags, pages, NULL, locked)
#endif

/* A number, or a structure. */
#define devexcl_kcov_handle	typeof(kcov_common_handle())

#if LINUX_VERSION_CODE >= KERNEL_VERSION(6, 8, 0)
#define devexcl_eventfd_signal(eventfd)	eventfd_signal(eventfd)
#else
#define devexcl_eventfd_signal(eventfd)	eventfd_signal(eventfd, 1)
#endif

#if LINUX_VERSION_CODE >= KERNEL_VERSION(6, 15, 0)

#define DEVEXCL_CAPS							\
	(DEVEXCL_CAP_ERRNO | DEVEXCL_CAP_LARGE_FOLIO |			\
	 DEVEXCL_CAP_SINGLE_PTE | DEVEXCL_CAP_MAPCOUNT | DEVEXCL_CAP_WAITS)

#define DEVEXCL_RESTORE_CAUSE	DEVEXCL_CAUSE_CLEAR

static inline struct page *devexcl_make_exclusive(struct mm_struct *mm,
						  unsigned long addr,
						  void *owner,
						  struct folio **foliop)
{
	return make_device_exclusive(mm, addr, owner, foliop);
}

#else /* before 6.15 */

#define DEVEXCL_CAPS		0ULL

#define DEVEXCL_RESTORE_CAUSE	DEVEXCL_CAUSE_EXCLUSIVE

/*
 * make_device_exclusive_range() says that it did not get a page, not why:
 * look at the page that is mapped there.
 */
static inline int devexcl_why_refused(struct mm_struct *mm, unsigned long addr)
{
	struct folio *folio;
	struct page *page;
	long got;
	int ret;

	got = devexcl_gup_remote(mm, addr, 1, FOLL_GET | FOLL_WRITE, &page,
				 NULL);
	if (got != 1)
		return got < 0 ? got : -EFAULT;

	folio = page_folio(page);
	if (!folio_test_anon(folio) || folio_test_hugetlb(folio) ||
	    PageTail(page))
		ret = -EOPNOTSUPP;
	else
		ret = -EBUSY;	/* locked, or changed under our hands */
	folio_put(folio);
	return ret;
}

static inline struct page *devexcl_make_exclusive(struct mm_struct *mm,
						  unsigned long addr,
						  void *owner,
						  struct folio **foliop)
{
	struct page *page = NULL;
	int got;

	got = make_device_exclusive_range(mm, addr, addr + PAGE_SIZE, &page,
					  owner);
	if (got < 0)
		return ERR_PTR(got);
	if (got != 1 || !page)
		return ERR_PTR(devexcl_why_refused(mm, addr));

	*foliop = page_folio(page);
	return page;
}

#endif

#ifndef DECLARE_FAULT_ATTR
/* Older kernels do not have these without CONFIG_FAULT_INJECTION. */
struct fault_attr {
};

#define DECLARE_FAULT_ATTR(name) struct fault_attr name = {}

static inline bool should_fail(struct fault_attr *attr, ssize_t size)
{
	return false;
}

static inline struct dentry *
fault_create_debugfs_attr(const char *name, struct dentry *parent,
			  struct fault_attr *attr)
{
	return NULL;
}
#endif

#if LINUX_VERSION_CODE >= KERNEL_VERSION(6, 9, 0)
static inline int devexcl_folio_mapcount(struct folio *folio)
{
	return folio_mapcount(folio);
}
#else
/* folio_mapcount() is not exported. */
static inline int devexcl_folio_mapcount(struct folio *folio)
{
	int mapcount, nr, i;

	if (!folio_test_large(folio))
		return atomic_read(&folio->_mapcount) + 1;

	mapcount = folio_entire_mapcount(folio);
	if (folio_test_hugetlb(folio))
		return mapcount;

	nr = folio_nr_pages(folio);
	for (i = 0; i < nr; i++)
		mapcount += atomic_read(&folio_page(folio, i)->_mapcount) + 1;
	return mapcount;
}
#endif

#endif /* _TEST_DEVEXCL_COMPAT_H */
