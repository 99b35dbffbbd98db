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

#if LINUX_VERSION_CODE >= KERNEL_VERSION(6, 10, 0)
static inline int devexcl_folio_mapcount(struct folio *folio)
{
	return folio_mapcount(folio);
}
#else
/* folio_mapcount() is not exported, or calls something that is not. */
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

/* The aperture */

#if LINUX_VERSION_CODE >= KERNEL_VERSION(6, 3, 0)
static inline void devexcl_vm_flags_mod(struct vm_area_struct *vma,
					unsigned long set, unsigned long clear)
{
	vm_flags_mod(vma, set, clear);
}
#else
static inline void devexcl_vm_flags_mod(struct vm_area_struct *vma,
					unsigned long set, unsigned long clear)
{
	vma->vm_flags = (vma->vm_flags | set) & ~clear;
}
#endif

/* Up to 6.16 a page frame number was wrapped, with flags, for some. */
#if LINUX_VERSION_CODE >= KERNEL_VERSION(6, 17, 0)
#define devexcl_pfn(pfn)	(pfn)
#else
#include <linux/pfn_t.h>
#define devexcl_pfn(pfn)	__pfn_to_pfn_t(pfn, PFN_DEV)
#endif

#define DEVEXCL_INSERTS_ALWAYS						\
	(BIT(DEVEXCL_INSERT_NONE) | BIT(DEVEXCL_INSERT_PFN) |		\
	 BIT(DEVEXCL_INSERT_PFN_PROT) | BIT(DEVEXCL_INSERT_MIXED) |	\
	 BIT(DEVEXCL_INSERT_PAGE) | BIT(DEVEXCL_INSERT_PAGES))

/* There was nobody left in the kernel who used it. */
#if LINUX_VERSION_CODE < KERNEL_VERSION(6, 4, 0)
#define DEVEXCL_INSERTS_MIXED_PROT	BIT(DEVEXCL_INSERT_MIXED_PROT)

static inline vm_fault_t devexcl_insert_mixed_prot(struct vm_area_struct *vma,
						   unsigned long addr,
						   unsigned long pfn,
						   pgprot_t prot)
{
	return vmf_insert_mixed_prot(vma, addr, devexcl_pfn(pfn), prot);
}
#else
#define DEVEXCL_INSERTS_MIXED_PROT	0

static inline vm_fault_t devexcl_insert_mixed_prot(struct vm_area_struct *vma,
						   unsigned long addr,
						   unsigned long pfn,
						   pgprot_t prot)
{
	return VM_FAULT_SIGBUS;
}
#endif

/* From 6.11 on it is not exported. */
#if LINUX_VERSION_CODE < KERNEL_VERSION(6, 11, 0)
#define DEVEXCL_INSERTS_MIXED_MKWRITE	BIT(DEVEXCL_INSERT_MIXED_MKWRITE)

static inline vm_fault_t
devexcl_insert_mixed_mkwrite(struct vm_area_struct *vma, unsigned long addr,
			     unsigned long pfn)
{
	return vmf_insert_mixed_mkwrite(vma, addr, devexcl_pfn(pfn));
}
#else
#define DEVEXCL_INSERTS_MIXED_MKWRITE	0

static inline vm_fault_t
devexcl_insert_mixed_mkwrite(struct vm_area_struct *vma, unsigned long addr,
			     unsigned long pfn)
{
	return VM_FAULT_SIGBUS;
}
#endif

#if LINUX_VERSION_CODE >= KERNEL_VERSION(6, 15, 0)
#define DEVEXCL_INSERTS_PAGE	BIT(DEVEXCL_INSERT_PAGE_MKWRITE)

static inline vm_fault_t devexcl_insert_page_mkwrite(struct vm_fault *vmf,
						     struct page *page)
{
	return vmf_insert_page_mkwrite(vmf, page, true);
}
#else
#define DEVEXCL_INSERTS_PAGE	0

static inline vm_fault_t devexcl_insert_page_mkwrite(struct vm_fault *vmf,
						     struct page *page)
{
	return VM_FAULT_SIGBUS;
}
#endif

/*
 * Up to 6.6 only DAX mappings get huge faults. Up to 6.11 a huge entry cannot
 * say that it is special.
 */
#if LINUX_VERSION_CODE >= KERNEL_VERSION(6, 12, 0)
#define DEVEXCL_INSERTS_PFN_PMD	BIT(DEVEXCL_INSERT_PFN_PMD)
#define DEVEXCL_CAPS_PMD	DEVEXCL_APERTURE_CAP_PMD_SPECIAL

static inline bool devexcl_pmd_special(pmd_t pmd)
{
	return pmd_special(pmd);
}

static inline vm_fault_t devexcl_insert_pfn_pmd(struct vm_fault *vmf,
						unsigned long pfn, bool write)
{
	return vmf_insert_pfn_pmd(vmf, devexcl_pfn(pfn), write);
}
#else
#define DEVEXCL_INSERTS_PFN_PMD	0
#define DEVEXCL_CAPS_PMD	0ULL

static inline bool devexcl_pmd_special(pmd_t pmd)
{
	return false;
}

static inline vm_fault_t devexcl_insert_pfn_pmd(struct vm_fault *vmf,
						unsigned long pfn, bool write)
{
	return VM_FAULT_FALLBACK;
}
#endif

#if LINUX_VERSION_CODE >= KERNEL_VERSION(6, 15, 0)
#define DEVEXCL_INSERTS_FOLIO_PMD	BIT(DEVEXCL_INSERT_FOLIO_PMD)

static inline vm_fault_t devexcl_insert_folio_pmd(struct vm_fault *vmf,
						  struct folio *folio,
						  bool write)
{
	return vmf_insert_folio_pmd(vmf, folio, write);
}
#else
#define DEVEXCL_INSERTS_FOLIO_PMD	0

static inline vm_fault_t devexcl_insert_folio_pmd(struct vm_fault *vmf,
						  struct folio *folio,
						  bool write)
{
	return VM_FAULT_FALLBACK;
}
#endif

#define DEVEXCL_APERTURE_INSERTS					\
	(DEVEXCL_INSERTS_ALWAYS | DEVEXCL_INSERTS_MIXED_PROT |		\
	 DEVEXCL_INSERTS_MIXED_MKWRITE | DEVEXCL_INSERTS_PAGE |		\
	 DEVEXCL_INSERTS_PFN_PMD | DEVEXCL_INSERTS_FOLIO_PMD)

/* The hook was given the order of the page from 6.6 on. */
#if LINUX_VERSION_CODE >= KERNEL_VERSION(6, 6, 0)
#define devexcl_fault_order_t			unsigned int
#define devexcl_fault_is_pmd(order)		((order) == PMD_SHIFT - PAGE_SHIFT)
#else
#define devexcl_fault_order_t			enum page_entry_size
#define devexcl_fault_is_pmd(order)		((order) == PE_SIZE_PMD)
#endif

/* From 6.11 on mm knows where the zero page may be mapped, and counts it not. */
#if LINUX_VERSION_CODE >= KERNEL_VERSION(6, 11, 0)
#define DEVEXCL_CAPS_ZERO						\
	(DEVEXCL_APERTURE_CAP_ZERO_CHECKED |				\
	 DEVEXCL_APERTURE_CAP_ZERO_UNCOUNTED)
#else
#define DEVEXCL_CAPS_ZERO	0ULL
#endif

/* A name has changed: the bit has a second use. */
#ifdef CONFIG_USERFAULTFD_RWP
#define devexcl_pte_uffd_wp(pte)	pte_uffd(pte)
#define devexcl_pmd_uffd_wp(pmd)	pmd_uffd(pmd)
#else
#define devexcl_pte_uffd_wp(pte)	pte_uffd_wp(pte)
#define devexcl_pmd_uffd_wp(pmd)	pmd_uffd_wp(pmd)
#endif

/* mmap_prepare() of a driver can have all its mapping done for it. */
#if LINUX_VERSION_CODE >= KERNEL_VERSION(7, 3, 0)
#define DEVEXCL_HAS_MMAP_PREPARE
#define DEVEXCL_CAPS_PREPARE	DEVEXCL_APERTURE_CAP_PREPARE
#else
#define DEVEXCL_CAPS_PREPARE	0ULL
#endif

#define DEVEXCL_APERTURE_CAPS						\
	(DEVEXCL_CAPS_PMD | DEVEXCL_CAPS_ZERO | DEVEXCL_CAPS_PREPARE)

#endif /* _TEST_DEVEXCL_COMPAT_H */
