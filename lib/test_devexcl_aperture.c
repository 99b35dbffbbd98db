// SPDX-License-Identifier: GPL-2.0
/*
 * An emulated device whose memory is mapped into processes
 *
 * Graphics drivers, perf and many others hand memory to user space that is not
 * ordinary memory to mm: memory of a device, or memory that the kernel uses
 * itself. There is a dozen functions to do that with, and each leaves something
 * else in the page tables. This is a device that uses all of them, page by page
 * as its user says, for testing the kernel and as an example for authors of
 * drivers. The ABI is in <uapi/linux/test_devexcl_uapi.h>.
 *
 * An open file is a context, which owns objects; an object is a number of pages
 * and says how mmap() and page faults insert them. Objects live as long as the
 * file. That is as long as any mapping does, as a mapping holds its file: so
 * there are no references to count, and nothing to do when mappings are
 * split, copied by fork(), moved or unmapped.
 *
 * How an object moves
 * -------------------
 *
 *	allocate the new memory
 *	take the object's lock for writing	(1)
 *	zap all entries of the object		(2)
 *	copy the contents
 *	let the object have the new memory
 *	drop the lock
 *	free the old memory
 *
 * (1) Who inserts an entry holds the lock for reading, from the look at the
 * memory until the entry is there. So none is made between (2) and the end
 * that leads to the old memory, and after the end all are made for the new
 * memory, with its caching mode.
 *
 * (2) mm finds the entries by their offset in the file, those too that fork()
 * copies or mremap() moves meanwhile: these see to that. When they are zapped no
 * CPU has them in its TLB. mm does not find those that mmap() itself inserts,
 * before the new mapping is known to the file; nor those that
 * remap_pfn_range() makes in private mappings, as it puts something else where
 * the offset was. So an object that is inserted by mmap() does not move.
 *
 * Who has got hold of a page itself, with get_user_pages(), has the old one after
 * that. It keeps a reference, so the page is not given to anybody else. A
 * driver that must not lose what is written there would have to wait for it.
 *
 * The zero page may be mapped where nobody can ever write to it. Newer kernels
 * see to that, older ones leave it to the driver; aperture_zero_is_safe() has
 * the rules, for all.
 *
 * Locks, outermost first: mmap_lock, aperture_object.lock, then those of mm by
 * which page tables are changed. Nothing is copied from or to user space
 * with the object's lock held, as that may take the mmap_lock.
 */
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/bitmap.h>
#include <linux/compat.h>
#include <linux/fs.h>
#include <linux/highmem.h>
#include <linux/huge_mm.h>
#include <linux/hugetlb.h>
#include <linux/io.h>
#include <linux/miscdevice.h>
#include <linux/mm.h>
#include <linux/module.h>
#include <linux/pagemap.h>
#include <linux/pci.h>
#include <linux/rwsem.h>
#include <linux/sched/signal.h>
#include <linux/slab.h>
#include <linux/uaccess.h>

#ifdef CONFIG_X86
#include <asm/set_memory.h>
#endif

#include <uapi/linux/test_devexcl_uapi.h>

#include "test_devexcl_compat.h"
#include "test_devexcl_ioctl.h"

#define APERTURE_MAX_OBJECTS	16
#define APERTURE_MAX_PAGES	1024
#define APERTURE_MAX_BATCH	16
#define APERTURE_MAX_PAUSE_MS	1000

/* Pages that one entry of a page middle directory maps */
#define APERTURE_PMD_PAGES	(1U << (PMD_SHIFT - PAGE_SHIFT))

/* Page infos and entries copied out at once */
#define APERTURE_BATCH_INFOS	8

#define APERTURE_GFP	(GFP_KERNEL_ACCOUNT | __GFP_ZERO | __GFP_NOWARN)

/* QEMU's ivshmem-plain: a PCI device that is nothing but memory, in BAR 2 */
#define APERTURE_PCI_VENDOR	0x1af4
#define APERTURE_PCI_DEVICE	0x1110
#define APERTURE_PCI_BAR	2

/**
 * struct aperture_bar - memory of a PCI device
 * @pdev: the device, or NULL if there is none
 * @start: physical address of the memory
 * @pages: its length
 * @lock: protects @used
 * @used: a bit for each page that an object has
 */
struct aperture_bar {
	struct pci_dev *pdev;
	phys_addr_t start;
	unsigned long pages;
	struct mutex lock;	/* protects the bitmap */
	unsigned long *used;
};

static struct aperture_bar aperture_bar = {
	.lock = __MUTEX_INITIALIZER(aperture_bar.lock),
};

/*
 * Offsets in files, in pages: each object of all files has its own, for ever.
 * They begin beyond page frame numbers of memory. In a private mapping
 * remap_pfn_range() puts such a number where the offset was; if that was an
 * object's offset as well, zapping the object would zap the mapping. And 32 bits
 * are all that 32-bit callers have.
 */
#define APERTURE_FIRST_PGOFF	0x80000000UL

static atomic64_t aperture_serial;

/**
 * struct aperture_memory - what an object consists of
 * @placement: where it is
 * @caching: what it was made with; single pages may have been changed since
 * @nr: pages
 * @pages: their struct pages, or NULL if they have none
 * @pfn: the first page frame number, if they are contiguous; else 0
 * @io: where the kernel has mapped memory without struct pages
 * @not_wb: some pages may be mapped other than write-back
 */
struct aperture_memory {
	enum devexcl_placement placement;
	enum devexcl_caching caching;
	unsigned int nr;
	struct page **pages;
	unsigned long pfn;
	void *io;
	bool not_wb;
};

/**
 * struct aperture_page - how a page of an object is mapped, and was
 * @flags: DEVEXCL_POLICY_*
 * @insert: &enum devexcl_insert
 * @caching: &enum devexcl_caching
 * @error: what the last insertion answered
 * @faults: calls of the fault handler
 * @page_mkwrites: calls of page_mkwrite
 * @pfn_mkwrites: calls of pfn_mkwrite
 */
struct aperture_page {
	u8 flags;
	u8 insert;
	u8 caching;
	int error;
	atomic_t faults;
	atomic_t page_mkwrites;
	atomic_t pfn_mkwrites;
};

/**
 * struct aperture_object - pages that can be mapped
 * @ctx: the context; objects live as long
 * @pgoff: offset in the file, in pages
 * @nr: pages
 * @flags: DEVEXCL_CREATE_*
 * @vma: &enum devexcl_vma
 * @map: &enum devexcl_map
 * @vma_caching: &enum devexcl_caching of mappings
 * @batch: pages to be inserted by one fault
 * @part: pages to be mapped by one remap_pfn_range()
 * @lock: for writing: to change what follows; for reading: to use it, and to
 *	insert pages
 * @memory: what it consists of
 * @kept: what it should not have any more; of a broken driver
 * @broken: DEVEXCL_APERTURE_BROKEN_*
 * @fail_after: how far the next mmap() gets; 0: all the way
 * @huge: pages may have been mapped by huge entries
 * @page: its pages
 */
struct aperture_object {
	struct aperture_ctx *ctx;
	unsigned long pgoff;
	unsigned int nr;
	unsigned int flags;
	enum devexcl_vma vma;
	enum devexcl_map map;
	enum devexcl_caching vma_caching;
	unsigned int batch;
	unsigned int part;
	struct rw_semaphore lock;
	struct aperture_memory *memory;
	struct aperture_memory *kept;
	unsigned int broken;
	atomic_t fail_after;
	bool huge;
	struct aperture_page page[];
};

/**
 * struct aperture_ctx - an open file
 * @mapping: where mm keeps the mappings of the file
 * @prepare: it is mapped by mmap_prepare
 * @lock: serializes additions to @objects
 * @objects: by their number; none is ever taken away
 */
struct aperture_ctx {
	struct address_space *mapping;
	bool prepare;
	struct mutex lock;	/* additions of objects */
	struct aperture_object *objects[APERTURE_MAX_OBJECTS];
};

/* Caching modes */

static pgprot_t aperture_pgprot(enum devexcl_caching caching, pgprot_t prot)
{
	switch (caching) {
	case DEVEXCL_CACHING_WC:
		return pgprot_writecombine(prot);
	case DEVEXCL_CACHING_UC:
		return pgprot_noncached(prot);
	default:
		return prot;
	}
}

/* The bits in which protections of different caching modes differ */
static unsigned long aperture_caching_mask(void)
{
	unsigned long wb = pgprot_val(PAGE_KERNEL);
	unsigned long wc = pgprot_val(pgprot_writecombine(PAGE_KERNEL));
	unsigned long uc = pgprot_val(pgprot_noncached(PAGE_KERNEL));

	return (wb ^ wc) | (wb ^ uc);
}

static enum devexcl_caching aperture_caching(pgprot_t prot)
{
	unsigned long mask = aperture_caching_mask();
	enum devexcl_caching caching;

	for (caching = 0; caching < DEVEXCL_CACHING_OTHER; caching++) {
		pgprot_t like = aperture_pgprot(caching, PAGE_KERNEL);

		if (!((pgprot_val(prot) ^ pgprot_val(like)) & mask))
			return caching;
	}
	return DEVEXCL_CACHING_OTHER;
}

/*
 * A page must not be mapped with different caching modes at once. On x86 the
 * kernel has mapped all memory, and knows the mode of each page of it; the
 * functions that insert page frame numbers go by that. So it must be changed
 * there, and back again before the memory is freed. From one mode to another
 * the way leads over write-back.
 */
static int aperture_set_caching(struct page **pages, unsigned int nr,
				enum devexcl_caching caching)
{
#ifdef CONFIG_X86
	int ret;

	ret = set_pages_array_wb(pages, nr);
	if (!ret && caching == DEVEXCL_CACHING_WC)
		ret = set_pages_array_wc(pages, nr);
	else if (!ret && caching == DEVEXCL_CACHING_UC)
		ret = set_pages_array_uc(pages, nr);
	if (!ret)
		return 0;
	/* Some may have got it. It says EINVAL also for want of page tables. */
	set_pages_array_wb(pages, nr);
	return -ENOMEM;
#else
	return 0;
#endif
}

/* Memory */

static bool aperture_has_bar(void)
{
	return aperture_bar.pdev;
}

/* The one that is aligned like a huge page is of use for that. */
static unsigned int aperture_order(unsigned int nr)
{
	return get_order((unsigned long)nr << PAGE_SHIFT);
}

static int aperture_bar_alloc(struct aperture_memory *memory)
{
	unsigned long align = min(1U << aperture_order(memory->nr),
				  APERTURE_PMD_PAGES);
	struct aperture_bar *bar = &aperture_bar;
	phys_addr_t start;
	unsigned long first;
	size_t size = (size_t)memory->nr << PAGE_SHIFT;

	mutex_lock(&bar->lock);
	first = bitmap_find_next_zero_area(bar->used, bar->pages, 0,
					   memory->nr, align - 1);
	if (first < bar->pages)
		bitmap_set(bar->used, first, memory->nr);
	mutex_unlock(&bar->lock);
	if (first >= bar->pages)
		return -ENOSPC;

	start = bar->start + ((phys_addr_t)first << PAGE_SHIFT);
	memory->pfn = PHYS_PFN(start);
	/* This is how the kernel learns of the caching mode. */
	if (memory->caching == DEVEXCL_CACHING_WC)
		memory->io = (void __force *)ioremap_wc(start, size);
	else if (memory->caching == DEVEXCL_CACHING_UC)
		memory->io = (void __force *)ioremap(start, size);
	else
		memory->io = memremap(start, size, MEMREMAP_WB);
	if (!memory->io)
		return -ENOMEM;
	memset_io((void __iomem __force *)memory->io, 0, size);
	return 0;
}

static void aperture_bar_free(struct aperture_memory *memory)
{
	struct aperture_bar *bar = &aperture_bar;

	if (memory->io && memory->caching == DEVEXCL_CACHING_WB)
		memunmap(memory->io);
	else if (memory->io)
		iounmap((void __iomem __force *)memory->io);
	if (!memory->pfn)
		return;
	mutex_lock(&bar->lock);
	bitmap_clear(bar->used, memory->pfn - PHYS_PFN(bar->start), memory->nr);
	mutex_unlock(&bar->lock);
}

static int aperture_alloc_single(struct aperture_memory *memory)
{
	unsigned int i;

	for (i = 0; i < memory->nr; i++) {
		memory->pages[i] = alloc_page(APERTURE_GFP);
		if (!memory->pages[i])
			return -ENOMEM;
	}
	return 0;
}

/* Contiguous pages that do not know of each other */
static int aperture_alloc_contiguous(struct aperture_memory *memory)
{
	unsigned int order = aperture_order(memory->nr);
	struct page *page;
	unsigned int i;

	page = alloc_pages(APERTURE_GFP, order);
	if (!page)
		return -ENOMEM;
	split_page(page, order);
	for (i = 0; i < memory->nr; i++)
		memory->pages[i] = page + i;
	for (; i < 1U << order; i++)
		__free_page(page + i);
	memory->pfn = page_to_pfn(page);
	if (memory->placement == DEVEXCL_PLACE_IO)
		for (i = 0; i < memory->nr; i++)
			SetPageReserved(memory->pages[i]);
	return 0;
}

static int aperture_alloc_folio(struct aperture_memory *memory)
{
	struct folio *folio;
	unsigned int i;

	folio = folio_alloc(APERTURE_GFP, PMD_SHIFT - PAGE_SHIFT);
	if (!folio)
		return -ENOMEM;
	for (i = 0; i < memory->nr; i++)
		memory->pages[i] = folio_page(folio, i);
	memory->pfn = folio_pfn(folio);
	return 0;
}

static void aperture_memory_free(struct aperture_memory *memory)
{
	unsigned int i;

	if (!memory)
		return;
	if (!memory->pages)
		aperture_bar_free(memory);
	else if (memory->not_wb && aperture_set_caching(memory->pages,
							memory->nr,
							DEVEXCL_CACHING_WB))
		pr_err("%u pages stay as they are cached\n", memory->nr);

	for (i = 0; memory->pages && i < memory->nr; i++) {
		if (!memory->pages[i])
			break;
		if (memory->placement == DEVEXCL_PLACE_IO)
			ClearPageReserved(memory->pages[i]);
		put_page(memory->pages[i]);
		if (memory->placement == DEVEXCL_PLACE_FOLIO)
			break;
	}
	kvfree(memory->pages);
	kfree(memory);
}

static int aperture_memory_fill(struct aperture_memory *memory)
{
	bool bar = memory->placement == DEVEXCL_PLACE_IO && aperture_has_bar();
	int ret;

	if (bar)
		return aperture_bar_alloc(memory);

	memory->pages = kvcalloc(memory->nr, sizeof(*memory->pages),
				 GFP_KERNEL_ACCOUNT);
	if (!memory->pages)
		return -ENOMEM;
	if (memory->placement == DEVEXCL_PLACE_SYSTEM)
		ret = aperture_alloc_single(memory);
	else if (memory->placement == DEVEXCL_PLACE_FOLIO)
		ret = aperture_alloc_folio(memory);
	else
		ret = aperture_alloc_contiguous(memory);
	if (ret || memory->caching == DEVEXCL_CACHING_WB)
		return ret;
	memory->not_wb = true;
	return aperture_set_caching(memory->pages, memory->nr, memory->caching);
}

/* May this be asked of aperture_memory_alloc()? */
static int aperture_memory_check(unsigned int nr, u32 placement, u32 caching)
{
	if (placement >= DEVEXCL_PLACE_NR || caching >= DEVEXCL_CACHING_OTHER)
		return -EINVAL;
	if (placement != DEVEXCL_PLACE_FOLIO)
		return 0;
	if (nr != APERTURE_PMD_PAGES)
		return -EINVAL;
	return caching == DEVEXCL_CACHING_WB ? 0 : -EOPNOTSUPP;
}

static struct aperture_memory *
aperture_memory_alloc(unsigned int nr, enum devexcl_placement placement,
		      enum devexcl_caching caching)
{
	struct aperture_memory *memory;
	int ret;

	memory = kzalloc(sizeof(*memory), GFP_KERNEL_ACCOUNT);
	if (!memory)
		return ERR_PTR(-ENOMEM);
	memory->placement = placement;
	memory->caching = caching;
	memory->nr = nr;
	ret = aperture_memory_fill(memory);
	if (ret) {
		aperture_memory_free(memory);
		return ERR_PTR(ret);
	}
	return memory;
}

static unsigned long aperture_memory_pfn(const struct aperture_memory *memory,
					 unsigned long index)
{
	return memory->pages ? page_to_pfn(memory->pages[index]) :
			       memory->pfn + index;
}

/* Within a page */
static void aperture_memory_read(const struct aperture_memory *memory,
				 unsigned long offset, void *buf, size_t len)
{
	if (memory->pages)
		memcpy_from_page(buf, memory->pages[offset >> PAGE_SHIFT],
				 offset_in_page(offset), len);
	else
		memcpy_fromio(buf, (void __iomem __force *)memory->io + offset,
			      len);
}

static void aperture_memory_write(const struct aperture_memory *memory,
				  unsigned long offset, const void *buf,
				  size_t len)
{
	if (memory->pages)
		memcpy_to_page(memory->pages[offset >> PAGE_SHIFT],
			       offset_in_page(offset), buf, len);
	else
		memcpy_toio((void __iomem __force *)memory->io + offset, buf,
			    len);
}

/* Objects */

static struct aperture_object *aperture_object(struct aperture_ctx *ctx, u32 id)
{
	struct aperture_object *obj = NULL;

	if (id < APERTURE_MAX_OBJECTS)
		obj = smp_load_acquire(&ctx->objects[id]); /* aperture_add() */
	return obj ?: ERR_PTR(-ENOENT);
}

/* The same, and it must have these pages. */
static struct aperture_object *aperture_object_pages(struct aperture_ctx *ctx,
						     u32 id, u32 first,
						     u32 count)
{
	struct aperture_object *obj = aperture_object(ctx, id);

	if (IS_ERR(obj))
		return obj;
	if (!count || first >= obj->nr || count > obj->nr - first)
		return ERR_PTR(-EINVAL);
	return obj;
}

/* The object that all of a range of offsets belongs to, or NULL */
static struct aperture_object *aperture_object_at(struct aperture_ctx *ctx,
						  unsigned long pgoff,
						  unsigned long nr)
{
	unsigned int id;

	for (id = 0; id < APERTURE_MAX_OBJECTS; id++) {
		struct aperture_object *obj = aperture_object(ctx, id);

		if (IS_ERR(obj))
			break;
		if (pgoff >= obj->pgoff && pgoff - obj->pgoff < obj->nr)
			return nr <= obj->nr - (pgoff - obj->pgoff) ? obj : NULL;
	}
	return NULL;
}

static unsigned long aperture_pfn(const struct aperture_object *obj,
				  unsigned long index)
{
	if (obj->page[index].flags & DEVEXCL_POLICY_ZERO)
		return page_to_pfn(ZERO_PAGE(0));
	return aperture_memory_pfn(obj->memory, index);
}

/* The struct page, or NULL */
static struct page *aperture_page(const struct aperture_object *obj,
				  unsigned long index)
{
	if (obj->page[index].flags & DEVEXCL_POLICY_ZERO)
		return ZERO_PAGE(0);
	return obj->memory->pages ? obj->memory->pages[index] : NULL;
}

static void aperture_zap(struct aperture_object *obj, unsigned long first,
			 unsigned long count, bool copies)
{
	unmap_mapping_range(obj->ctx->mapping,
			    (loff_t)(obj->pgoff + first) << PAGE_SHIFT,
			    (loff_t)count << PAGE_SHIFT, copies);
}

/* Looking at page tables */

static void aperture_entry_page(struct devexcl_entry *entry, bool special)
{
	struct folio *folio;

	if (pfn_valid(entry->pfn))
		entry->flags |= DEVEXCL_ENTRY_HAS_PAGE;
	if (is_zero_pfn(entry->pfn))
		entry->flags |= DEVEXCL_ENTRY_ZERO;
	else if (special || !pfn_valid(entry->pfn))
		return;
	/* The entry is a reference, and stays while its lock is held. */
	folio = page_folio(pfn_to_page(entry->pfn));
	if (folio_test_anon(folio))
		entry->flags |= DEVEXCL_ENTRY_ANON;
	entry->refcount = folio_ref_count(folio);
	entry->mapcount = devexcl_folio_mapcount(folio);
}

static void aperture_entry_pte(struct devexcl_entry *entry, pte_t pte)
{
	entry->raw = pte_val(pte);
	if (pte_none(pte))
		return;
	entry->kind = DEVEXCL_ENTRY_OTHER;
	if (!pte_present(pte))
		return;
	entry->kind = DEVEXCL_ENTRY_PRESENT;
	if (pte_write(pte))
		entry->flags |= DEVEXCL_ENTRY_WRITE;
	if (pte_young(pte))
		entry->flags |= DEVEXCL_ENTRY_YOUNG;
	if (pte_dirty(pte))
		entry->flags |= DEVEXCL_ENTRY_DIRTY;
	if (pte_special(pte))
		entry->flags |= DEVEXCL_ENTRY_SPECIAL;
	if (pte_soft_dirty(pte))
		entry->flags |= DEVEXCL_ENTRY_SOFT_DIRTY;
	if (devexcl_pte_uffd_wp(pte))
		entry->flags |= DEVEXCL_ENTRY_UFFD_WP;
	entry->prot = pgprot_val(pte_pgprot(pte));
	entry->pfn = pte_pfn(pte);
	entry->caching = aperture_caching(pte_pgprot(pte));
	aperture_entry_page(entry, pte_special(pte));
}

static void aperture_entry_pmd(struct devexcl_entry *entry, pmd_t pmd,
			       unsigned long addr)
{
	entry->raw = pmd_val(pmd);
	if (pmd_none(pmd))
		return;
	entry->kind = DEVEXCL_ENTRY_OTHER;
	if (!pmd_present(pmd))
		return;
	entry->kind = DEVEXCL_ENTRY_HUGE;
	if (pmd_write(pmd))
		entry->flags |= DEVEXCL_ENTRY_WRITE;
	if (pmd_young(pmd))
		entry->flags |= DEVEXCL_ENTRY_YOUNG;
	if (pmd_dirty(pmd))
		entry->flags |= DEVEXCL_ENTRY_DIRTY;
	if (devexcl_pmd_special(pmd))
		entry->flags |= DEVEXCL_ENTRY_SPECIAL;
	if (pmd_soft_dirty(pmd))
		entry->flags |= DEVEXCL_ENTRY_SOFT_DIRTY;
	if (devexcl_pmd_uffd_wp(pmd))
		entry->flags |= DEVEXCL_ENTRY_UFFD_WP;
	entry->prot = pgprot_val(pmd_pgprot(pmd));
	entry->pfn = pmd_pfn(pmd) + ((addr & ~PMD_MASK) >> PAGE_SHIFT);
	entry->caching = aperture_caching(pmd_pgprot(pmd));
	aperture_entry_page(entry, devexcl_pmd_special(pmd));
}

/*
 * Look at the entry in the page table that *@pmdp leads to, or at *@pmdp itself.
 * The caller sees to it that @pmdp stays: he holds the mmap_lock, or is handling a
 * fault.
 *
 * Return: whether *@pmdp stayed what it was until we had the lock; if not, try
 * again.
 */
static bool aperture_entry_try(struct mm_struct *mm, pmd_t *pmdp,
			       unsigned long addr, struct devexcl_entry *entry)
{
	bool table, same;
	spinlock_t *ptl;	/* of the entry */
	pmd_t pmd;

	rcu_read_lock();
	pmd = READ_ONCE(*pmdp);
	table = pmd_present(pmd) && !pmd_leaf(pmd);
	ptl = table ? pte_lockptr(mm, &pmd) : pmd_lockptr(mm, pmdp);
	spin_lock(ptl);
	same = pmd_same(pmd, READ_ONCE(*pmdp));
	if (same && table)
		aperture_entry_pte(entry,
				   READ_ONCE(*pte_offset_kernel(&pmd, addr)));
	else if (same)
		aperture_entry_pmd(entry, pmd, addr);
	spin_unlock(ptl);
	rcu_read_unlock();
	return same;
}

/*
 * A walker of our own. Those of mm are not for modules, or make page tables, or
 * warn of what they do not expect; we are here to see what is there, whatever it
 * is. The mmap_lock and a mapping at @addr keep the upper levels of the page
 * table in place; the lowest may be taken away if it is empty, or be replaced
 * by a huge page, so it is used under RCU, and looked for again when locked.
 */
static void aperture_entry(struct mm_struct *mm, unsigned long addr,
			   struct devexcl_entry *entry)
{
	pgd_t *pgd = pgd_offset(mm, addr);
	p4d_t *p4d;
	pud_t *pud;

	lockdep_assert_held(&mm->mmap_lock);
	if (pgd_none(*pgd))
		return;
	p4d = p4d_offset(pgd, addr);
	if (p4d_none(*p4d))
		return;
	pud = pud_offset(p4d, addr);
	if (pud_none(*pud))
		return;
	if (!pud_present(*pud) || pud_leaf(*pud)) {
		entry->kind = DEVEXCL_ENTRY_OTHER;
		return;
	}
	while (!aperture_entry_try(mm, pmd_offset(pud, addr), addr, entry))
		cpu_relax();
}

/* Inserting pages */

static bool aperture_is_cow(unsigned long vm_flags)
{
	return (vm_flags & (VM_SHARED | VM_MAYWRITE)) == VM_MAYWRITE;
}

/* A broken driver: it leaves that to the kernel. */
static bool aperture_trusts_zero(const struct aperture_object *obj)
{
	return READ_ONCE(obj->broken) & DEVEXCL_APERTURE_BROKEN_TRUST_ZERO;
}

/*
 * Nobody may ever get at the zero page for writing.
 *
 * That is so where nothing is writable, and in a private mapping, where a write
 * makes a copy. In a shared mapping it is so if each write is announced,
 * because our hooks say no: both of them, as it depends on the entry which one
 * is called. Without them it is the kernel that must say no, if it does.
 */
static bool aperture_zero_is_safe(const struct aperture_object *obj,
				  unsigned long vm_flags,
				  enum devexcl_insert insert)
{
	const unsigned int hooks = DEVEXCL_CREATE_PAGE_MKWRITE |
				   DEVEXCL_CREATE_PFN_MKWRITE;

	if (!(vm_flags & (VM_WRITE | VM_MAYWRITE)))
		return true;
	if (aperture_trusts_zero(obj) && insert != DEVEXCL_INSERT_PFN &&
	    insert != DEVEXCL_INSERT_PFN_PROT)
		return true;
	/* These make what they find, or make, writable. */
	if (insert == DEVEXCL_INSERT_MIXED_MKWRITE ||
	    insert == DEVEXCL_INSERT_PAGE_MKWRITE)
		return false;
	if (!(vm_flags & VM_SHARED))
		return true;
	if ((obj->flags & hooks) == hooks)
		return true;
	return insert != DEVEXCL_INSERT_PFN &&
	       insert != DEVEXCL_INSERT_PFN_PROT &&
	       DEVEXCL_APERTURE_CAPS & DEVEXCL_APERTURE_CAP_ZERO_CHECKED;
}

/*
 * The functions trust their caller: they have a BUG_ON() for mappings and pages
 * that do not go together.
 */
static bool aperture_fits(const struct vm_area_struct *vma,
			  enum devexcl_insert insert, unsigned long pfn,
			  const struct page *page)
{
	bool mixed = vma->vm_flags & VM_MIXEDMAP;
	bool pfnmap = vma->vm_flags & VM_PFNMAP;
	bool shared = vma->vm_flags & VM_SHARED;
	bool cow = aperture_is_cow(vma->vm_flags);

	switch (insert) {
	case DEVEXCL_INSERT_PFN:
	case DEVEXCL_INSERT_PFN_PROT:
		return (pfnmap && !cow) || (mixed && !pfn_valid(pfn));
	case DEVEXCL_INSERT_PFN_PMD:
		return pfnmap && !cow;
	case DEVEXCL_INSERT_MIXED:
	case DEVEXCL_INSERT_MIXED_PROT:
		return mixed || (!pfnmap && is_zero_pfn(pfn));
	case DEVEXCL_INSERT_MIXED_MKWRITE:
		return (shared || !cow) &&
		       (mixed || (!pfnmap && is_zero_pfn(pfn)));
	case DEVEXCL_INSERT_PAGE:
	case DEVEXCL_INSERT_PAGES:
		return mixed && page;
	case DEVEXCL_INSERT_PAGE_MKWRITE:
		return (shared || !cow) && !pfnmap && page;
	case DEVEXCL_INSERT_FOLIO_PMD:
		return !pfnmap && page;
	default:
		return false;
	}
}

static bool aperture_writable(pgprot_t prot)
{
	return pte_write(pfn_pte(page_to_pfn(ZERO_PAGE(0)), prot));
}

/*
 * The protection of one page. It has the caching mode of the page, and else what
 * the mapping has, but it may be read-only in a writable mapping.
 */
static pgprot_t aperture_page_prot(const struct aperture_object *obj,
				   const struct vm_area_struct *vma,
				   unsigned long index)
{
	const struct aperture_page *page = &obj->page[index];
	unsigned long vm_flags = vma->vm_flags;
	pgprot_t prot;

	if (page->flags & DEVEXCL_POLICY_READ_ONLY)
		vm_flags &= ~VM_WRITE;
	/* If writes are announced, it looks as if the mapping was private. */
	else if (!aperture_writable(vma->vm_page_prot))
		vm_flags &= ~VM_SHARED;
	prot = aperture_pgprot(page->caching, vm_get_page_prot(vm_flags));
	/* If the CPU encrypts memory, then that of the system. */
	return aperture_page(obj, index) ? prot : pgprot_decrypted(prot);
}

static vm_fault_t aperture_errno_to_fault(int error)
{
	switch (error) {
	case 0:
	case -EBUSY:	/* another thread was quicker */
		return VM_FAULT_NOPAGE;
	case -ENOMEM:
		return VM_FAULT_OOM;
	default:
		return VM_FAULT_SIGBUS;
	}
}

static int aperture_fault_to_errno(vm_fault_t ret)
{
	if (ret & VM_FAULT_OOM)
		return -ENOMEM;
	return ret & VM_FAULT_ERROR ? -EFAULT : 0;
}

/* vm_insert_pages() for a page and those after it that want the same */
static int aperture_insert_pages(struct aperture_object *obj,
				 struct vm_area_struct *vma, unsigned long addr,
				 unsigned long index)
{
	unsigned long room = min((vma->vm_end - addr) >> PAGE_SHIFT,
				 (unsigned long)obj->nr - index);
	/* Only the first is looked at afterwards. */
	unsigned int most = aperture_trusts_zero(obj) ? 1 : obj->batch;
	struct page *pages[APERTURE_MAX_BATCH];
	unsigned long nr = 0, left;
	int ret;

	while (nr < most && nr < room &&
	       obj->page[index + nr].insert == DEVEXCL_INSERT_PAGES) {
		pages[nr] = aperture_page(obj, index + nr);
		if (!pages[nr])
			break;
		if (is_zero_pfn(page_to_pfn(pages[nr])) &&
		    !aperture_zero_is_safe(obj, vma->vm_flags,
					   DEVEXCL_INSERT_PAGES))
			break;
		nr++;
	}
	left = nr;
	ret = vm_insert_pages(vma, addr, pages, &left);
	/* It was about this page; the others come with their own faults. */
	return left < nr ? 0 : ret;
}

static vm_fault_t aperture_insert_one(struct aperture_object *obj,
				      struct vm_fault *vmf, unsigned long index,
				      enum devexcl_insert insert, int *error)
{
	struct vm_area_struct *vma = vmf->vma;
	unsigned long addr = vmf->address & PAGE_MASK;
	unsigned long pfn = aperture_pfn(obj, index);

	switch (insert) {
	case DEVEXCL_INSERT_PFN:
		return vmf_insert_pfn(vma, addr, pfn);
	case DEVEXCL_INSERT_PFN_PROT:
		return vmf_insert_pfn_prot(vma, addr, pfn,
					   aperture_page_prot(obj, vma, index));
	case DEVEXCL_INSERT_MIXED:
		return vmf_insert_mixed(vma, addr, devexcl_pfn(pfn));
	case DEVEXCL_INSERT_MIXED_PROT:
		return devexcl_insert_mixed_prot(vma, addr, pfn,
						 aperture_page_prot(obj, vma,
								    index));
	case DEVEXCL_INSERT_MIXED_MKWRITE:
		return devexcl_insert_mixed_mkwrite(vma, addr, pfn);
	case DEVEXCL_INSERT_PAGE:
		*error = vm_insert_page(vma, addr, aperture_page(obj, index));
		return aperture_errno_to_fault(*error);
	case DEVEXCL_INSERT_PAGES:
		*error = aperture_insert_pages(obj, vma, addr, index);
		return aperture_errno_to_fault(*error);
	case DEVEXCL_INSERT_PAGE_MKWRITE:
		return devexcl_insert_page_mkwrite(vmf,
						   aperture_page(obj, index));
	default:
		return VM_FAULT_SIGBUS;
	}
}

static bool aperture_is_writable_zero(const struct devexcl_entry *entry)
{
	const u32 flags = DEVEXCL_ENTRY_ZERO | DEVEXCL_ENTRY_WRITE;

	return (entry->flags & flags) == flags;
}

/* Was it inserted so that it can be written to? */
static bool aperture_zero_writable(const struct vm_fault *vmf)
{
	struct devexcl_entry entry = {};

	if (!pmd_none(READ_ONCE(*vmf->pmd)))
		while (!aperture_entry_try(vmf->vma->vm_mm, vmf->pmd,
					   vmf->address, &entry))
			cpu_relax();
	return aperture_is_writable_zero(&entry);
}

/* The same, of a mapping that mmap() is about to finish. */
static bool aperture_maps_writable(const struct vm_area_struct *vma)
{
	unsigned long addr;

	for (addr = vma->vm_start; addr < vma->vm_end; addr += PAGE_SIZE) {
		struct devexcl_entry entry = {};

		aperture_entry(vma->vm_mm, addr, &entry);
		if (aperture_is_writable_zero(&entry))
			return true;
	}
	return false;
}

static vm_fault_t aperture_insert(struct aperture_object *obj,
				  struct vm_fault *vmf, unsigned long index)
{
	struct aperture_page *page = &obj->page[index];
	enum devexcl_insert insert = page->insert;
	unsigned long pfn = aperture_pfn(obj, index);
	vm_fault_t ret = VM_FAULT_SIGBUS;
	int error = 0;

	lockdep_assert_held_read(&obj->lock);
	/* Here it is a single page. */
	if (insert == DEVEXCL_INSERT_PFN_PMD)
		insert = DEVEXCL_INSERT_PFN;
	else if (insert == DEVEXCL_INSERT_FOLIO_PMD)
		insert = DEVEXCL_INSERT_PAGE;

	if (!aperture_fits(vmf->vma, insert, pfn, aperture_page(obj, index)))
		error = -EINVAL;
	else if (is_zero_pfn(pfn) &&
		 !aperture_zero_is_safe(obj, vmf->vma->vm_flags, insert))
		error = -EACCES;
	else
		ret = aperture_insert_one(obj, vmf, index, insert, &error);

	if (aperture_trusts_zero(obj) && aperture_zero_writable(vmf)) {
		aperture_zap(obj, index, 1, false);
		error = -EPERM;
		ret = VM_FAULT_SIGBUS;
	}
	WRITE_ONCE(page->error, error ?: aperture_fault_to_errno(ret));
	return ret;
}

/*
 * Who faults waits while the object moves. That is not long, but who is killed
 * does not wait at all; what he is told does not matter then.
 */
static vm_fault_t aperture_fault(struct vm_fault *vmf)
{
	struct aperture_object *obj = vmf->vma->vm_private_data;
	unsigned long index = vmf->pgoff - obj->pgoff;
	vm_fault_t ret;

	if (index >= obj->nr)
		return VM_FAULT_SIGBUS;
	if (down_read_killable(&obj->lock))
		return VM_FAULT_SIGBUS;
	atomic_inc(&obj->page[index].faults);
	ret = aperture_insert(obj, vmf, index);
	up_read(&obj->lock);
	return ret;
}

/*
 * May the page be written to? It is the entry that must not be the zero page: it
 * may be older than the page's policy.
 */
static bool aperture_may_write(const struct aperture_object *obj,
			       const struct vm_fault *vmf, unsigned long index)
{
	lockdep_assert_held_read(&obj->lock);
	if (is_zero_pfn(pte_pfn(vmf->orig_pte)))
		return false;
	return !(obj->page[index].flags & DEVEXCL_POLICY_REFUSE_WRITE) ||
	       READ_ONCE(obj->broken) & DEVEXCL_APERTURE_BROKEN_ALLOW_WRITE;
}

/* Are all pages of a huge page what one entry can say? */
static bool aperture_fits_huge(const struct aperture_object *obj,
			       const struct vm_area_struct *vma,
			       unsigned long index)
{
	const struct aperture_page *page = &obj->page[index];
	unsigned long pfn = aperture_pfn(obj, index);
	unsigned long i;

	if (page->insert != DEVEXCL_INSERT_PFN_PMD &&
	    page->insert != DEVEXCL_INSERT_FOLIO_PMD)
		return false;
	if (page->insert == DEVEXCL_INSERT_FOLIO_PMD &&
	    obj->memory->placement != DEVEXCL_PLACE_FOLIO)
		return false;
	if (!obj->memory->pfn || !IS_ALIGNED(pfn, APERTURE_PMD_PAGES) ||
	    !aperture_fits(vma, page->insert, pfn, aperture_page(obj, index)))
		return false;
	for (i = 0; i < APERTURE_PMD_PAGES; i++)
		if (page[i].insert != page->insert || page[i].flags ||
		    page[i].caching != page->caching)
			return false;
	return true;
}

static vm_fault_t aperture_insert_huge(struct aperture_object *obj,
				       struct vm_fault *vmf,
				       unsigned long index)
{
	/* A huge fault for writing is all the announcement there is. */
	bool write = vmf->flags & FAULT_FLAG_WRITE &&
		     vmf->vma->vm_flags & VM_SHARED;
	struct aperture_page *page = &obj->page[index];
	vm_fault_t ret;

	lockdep_assert_held_read(&obj->lock);
	if (!aperture_fits_huge(obj, vmf->vma, index))
		return VM_FAULT_FALLBACK;
	atomic_inc(&page->faults);
	if (page->insert == DEVEXCL_INSERT_PFN_PMD) {
		ret = devexcl_insert_pfn_pmd(vmf, aperture_pfn(obj, index),
					     write);
	} else {
		struct page *p = aperture_page(obj, index);

		ret = devexcl_insert_folio_pmd(vmf, page_folio(p), write);
	}
	WRITE_ONCE(page->error, aperture_fault_to_errno(ret));
	return ret;
}

static vm_fault_t aperture_huge_fault(struct vm_fault *vmf,
				      devexcl_fault_order_t order)
{
	struct vm_area_struct *vma = vmf->vma;
	struct aperture_object *obj = vma->vm_private_data;
	unsigned long addr = vmf->address & PMD_MASK;
	unsigned long index;
	vm_fault_t ret;

	if (!devexcl_fault_is_pmd(order) || addr < vma->vm_start ||
	    vma->vm_end - addr < PMD_SIZE)
		return VM_FAULT_FALLBACK;
	index = vma->vm_pgoff + ((addr - vma->vm_start) >> PAGE_SHIFT) -
		obj->pgoff;
	if (index >= obj->nr || obj->nr - index < APERTURE_PMD_PAGES)
		return VM_FAULT_FALLBACK;
	if (down_read_killable(&obj->lock))
		return VM_FAULT_SIGBUS;
	ret = aperture_insert_huge(obj, vmf, index);
	up_read(&obj->lock);
	return ret;
}

/* A page that mm knows is going to be written to, in a shared mapping. */
static vm_fault_t aperture_page_mkwrite(struct vm_fault *vmf)
{
	struct aperture_object *obj = vmf->vma->vm_private_data;
	unsigned long index = vmf->pgoff - obj->pgoff;
	vm_fault_t ret;

	if (index >= obj->nr || down_read_killable(&obj->lock))
		return VM_FAULT_SIGBUS;
	atomic_inc(&obj->page[index].page_mkwrites);
	if (obj->map == DEVEXCL_MAP_FAULT && !obj->kept &&
	    vmf->page != aperture_page(obj, index)) {
		/* The object has moved; mm looks at the entry again. */
		ret = VM_FAULT_NOPAGE;
	} else if (!aperture_may_write(obj, vmf, index)) {
		ret = VM_FAULT_SIGBUS;
	} else if (obj->page[index].insert == DEVEXCL_INSERT_PAGE_MKWRITE &&
		   vmf->page == aperture_page(obj, index)) {
		/*
		 * It makes an entry writable that is there, too; it warns if
		 * that has become one of another page.
		 */
		ret = devexcl_insert_page_mkwrite(vmf, vmf->page);
	} else {
		/* mm would take the page for truncated if it locked it. */
		lock_page(vmf->page);
		ret = VM_FAULT_LOCKED;
	}
	up_read(&obj->lock);
	return ret;
}

/* A page that mm does not know. */
static vm_fault_t aperture_pfn_mkwrite(struct vm_fault *vmf)
{
	struct aperture_object *obj = vmf->vma->vm_private_data;
	unsigned long index = vmf->pgoff - obj->pgoff;
	vm_fault_t ret;

	if (index >= obj->nr || down_read_killable(&obj->lock))
		return VM_FAULT_SIGBUS;
	atomic_inc(&obj->page[index].pfn_mkwrites);
	ret = aperture_may_write(obj, vmf, index) ? 0 : VM_FAULT_SIGBUS;
	up_read(&obj->lock);
	return ret;
}

/* Mapping */

#define APERTURE_FAULT_OPS						\
	.fault = aperture_fault,					\
	.huge_fault = aperture_huge_fault

/* By DEVEXCL_CREATE_PAGE_MKWRITE and DEVEXCL_CREATE_PFN_MKWRITE */
static const struct vm_operations_struct aperture_vm_ops[2][2] = {
	{
		{ APERTURE_FAULT_OPS },
		{
			APERTURE_FAULT_OPS,
			.pfn_mkwrite = aperture_pfn_mkwrite,
		},
	}, {
		{
			APERTURE_FAULT_OPS,
			.page_mkwrite = aperture_page_mkwrite,
		}, {
			APERTURE_FAULT_OPS,
			.page_mkwrite = aperture_page_mkwrite,
			.pfn_mkwrite = aperture_pfn_mkwrite,
		},
	},
};

/*
 * For private mappings that remap_pfn_range() made: the offset of a fault is not
 * one in the object.
 */
static const struct vm_operations_struct aperture_vm_ops_none;

static const struct vm_operations_struct *
aperture_ops(const struct aperture_object *obj, unsigned long vm_flags)
{
	bool page = obj->flags & DEVEXCL_CREATE_PAGE_MKWRITE;
	bool pfn = obj->flags & DEVEXCL_CREATE_PFN_MKWRITE;

	if (aperture_is_cow(vm_flags) && (obj->map == DEVEXCL_MAP_REMAP_PFN ||
					  obj->map == DEVEXCL_MAP_IOMAP))
		return &aperture_vm_ops_none;
	return &aperture_vm_ops[page][pfn];
}

static bool aperture_maps_pages(enum devexcl_map map)
{
	return map == DEVEXCL_MAP_INSERT_PAGE ||
	       map == DEVEXCL_MAP_INSERT_PAGES || map == DEVEXCL_MAP_PAGES ||
	       map == DEVEXCL_MAP_PAGES_ZERO;
}

/* Is one of the pages the zero page? */
static bool aperture_has_zero(const struct aperture_object *obj)
{
	unsigned long i;

	for (i = 0; i < obj->nr; i++)
		if (obj->page[i].flags & DEVEXCL_POLICY_ZERO)
			return true;
	return false;
}

/**
 * struct aperture_mapping - what a mapping is to be
 * @set: VM_* flags that are to be set
 * @clear: VM_* flags that are to be cleared
 * @prot: vm_page_prot
 */
struct aperture_mapping {
	unsigned long set;
	unsigned long clear;
	pgprot_t prot;
};

/* May the object be mapped like that, and what is the mapping to be? */
static int aperture_check_map(const struct aperture_object *obj,
			      unsigned long vm_flags,
			      struct aperture_mapping *mapping)
{
	bool pages = aperture_maps_pages(obj->map);
	bool maps = obj->map != DEVEXCL_MAP_FAULT;
	bool zero = maps && aperture_has_zero(obj);

	lockdep_assert_held_read(&obj->lock);
	if (obj->flags & DEVEXCL_CREATE_READ_ONLY && vm_flags & VM_WRITE)
		return -EPERM;
	mapping->set = VM_DONTEXPAND | VM_DONTDUMP;
	mapping->clear = 0;
	if (obj->flags & DEVEXCL_CREATE_READ_ONLY)
		mapping->clear = VM_MAYWRITE;
	if (obj->flags & DEVEXCL_CREATE_VM_IO)
		mapping->set |= VM_IO;
	if (obj->vma == DEVEXCL_VMA_PFN)
		mapping->set |= VM_PFNMAP;
	else if (obj->vma == DEVEXCL_VMA_MIXED)
		mapping->set |= VM_MIXEDMAP;
	vm_flags = (vm_flags | mapping->set) & ~mapping->clear;

	if (obj->vma == DEVEXCL_VMA_PFN && obj->map == DEVEXCL_MAP_FAULT &&
	    aperture_is_cow(vm_flags))
		return -EINVAL;
	if (pages ? !obj->memory->pages : zero)
		return -EINVAL;
	if (zero && !aperture_zero_is_safe(obj, vm_flags, DEVEXCL_INSERT_PAGE))
		return -EACCES;

	/*
	 * If writes are to be announced, the mapping's protection will say
	 * so when mmap() is done: too late for what is inserted before. The
	 * zero page cannot have that, nor who wants to hear of each write: they
	 * have it inserted as if the mapping was private.
	 */
	if (zero && !aperture_trusts_zero(obj))
		vm_flags &= ~VM_SHARED;
	if (maps && obj->flags & DEVEXCL_CREATE_MAP_READ_ONLY)
		vm_flags &= ~VM_SHARED;
	mapping->prot = vm_get_page_prot(vm_flags);
	mapping->prot = aperture_pgprot(obj->vma_caching, mapping->prot);
	return 0;
}

/* How many of that many pages get mapped before we fail, if we are to. */
static unsigned long aperture_fail_after(struct aperture_object *obj,
					 unsigned long nr)
{
	unsigned int fail_after = atomic_xchg(&obj->fail_after, 0);

	return fail_after && fail_after < nr ? fail_after : ULONG_MAX;
}

static int aperture_map_single(struct aperture_object *obj,
			       struct vm_area_struct *vma, unsigned long first)
{
	unsigned long nr = vma_pages(vma), i;
	unsigned long fail_after = aperture_fail_after(obj, nr);
	int ret = 0;

	for (i = 0; !ret && i < nr; i++) {
		if (i == fail_after)
			return -EIO;
		ret = vm_insert_page(vma, vma->vm_start + i * PAGE_SIZE,
				     aperture_page(obj, first + i));
	}
	return ret;
}

static int aperture_map_array(struct aperture_object *obj,
			      struct vm_area_struct *vma, unsigned long first)
{
	unsigned long nr = vma_pages(vma), i;
	struct page **pages;
	int ret;

	pages = kvcalloc(obj->nr, sizeof(*pages), GFP_KERNEL_ACCOUNT);
	if (!pages)
		return -ENOMEM;
	for (i = 0; i < obj->nr; i++)
		pages[i] = aperture_page(obj, i);

	if (obj->map == DEVEXCL_MAP_INSERT_PAGES) {
		ret = vm_insert_pages(vma, vma->vm_start, pages + first, &nr);
	} else if (obj->map == DEVEXCL_MAP_PAGES_ZERO) {
		ret = vm_map_pages_zero(vma, pages, obj->nr);
	} else {
		/* It takes the array for what is at offset 0 of the file. */
		vma->vm_pgoff -= obj->pgoff;
		ret = vm_map_pages(vma, pages, obj->nr);
		vma->vm_pgoff += obj->pgoff;
	}
	kvfree(pages);
	return ret;
}

/* remap_pfn_range() takes pages that are contiguous. */
static bool aperture_contiguous(const struct aperture_object *obj,
				unsigned long first, unsigned long nr)
{
	return nr <= 1 || obj->memory->pfn || obj->part == 1;
}

static int aperture_map_remap(struct aperture_object *obj,
			      struct vm_area_struct *vma, unsigned long first)
{
	unsigned long nr = vma_pages(vma), part = obj->part ?: nr, i;
	unsigned long fail_after = aperture_fail_after(obj, nr);
	unsigned long start = vma->vm_start;
	int ret = 0;

	if (!aperture_contiguous(obj, first, nr))
		return -EINVAL;
	for (i = 0; !ret && i < nr; i += part) {
		if (i >= fail_after)
			return -EIO;
		ret = remap_pfn_range(vma, start + i * PAGE_SIZE,
				      aperture_memory_pfn(obj->memory,
							  first + i),
				      min(part, nr - i) << PAGE_SHIFT,
				      vma->vm_page_prot);
	}
	return ret;
}

static int aperture_map_iomap(struct aperture_object *obj,
			      struct vm_area_struct *vma, unsigned long first)
{
	unsigned long pgoff = vma->vm_pgoff;
	int ret;

	if (!obj->memory->pfn)
		return -EINVAL;
	/* It takes the memory for what is at offset 0 of the file. */
	vma->vm_pgoff = first;
	ret = vm_iomap_memory(vma, PFN_PHYS(obj->memory->pfn),
			      (unsigned long)obj->nr << PAGE_SHIFT);
	/* In a private mapping it is the page frame number now. */
	if (!aperture_is_cow(vma->vm_flags))
		vma->vm_pgoff = pgoff;
	return ret;
}

static int aperture_map(struct aperture_object *obj, struct vm_area_struct *vma)
{
	unsigned long first = vma->vm_pgoff - obj->pgoff;

	switch (obj->map) {
	case DEVEXCL_MAP_FAULT:
		return 0;
	case DEVEXCL_MAP_INSERT_PAGE:
		return aperture_map_single(obj, vma, first);
	case DEVEXCL_MAP_REMAP_PFN:
		return aperture_map_remap(obj, vma, first);
	case DEVEXCL_MAP_IOMAP:
		return aperture_map_iomap(obj, vma, first);
	default:
		return aperture_map_array(obj, vma, first);
	}
}

static int aperture_mmap(struct file *file, struct vm_area_struct *vma)
{
	struct aperture_ctx *ctx = file->private_data;
	struct aperture_mapping mapping;
	struct aperture_object *obj;
	int ret;

	obj = aperture_object_at(ctx, vma->vm_pgoff, vma_pages(vma));
	if (!obj)
		return -ENXIO;
	if (down_read_killable(&obj->lock))
		return -EINTR;
	ret = aperture_check_map(obj, vma->vm_flags, &mapping);
	if (!ret) {
		devexcl_vm_flags_mod(vma, mapping.set, mapping.clear);
		vma->vm_page_prot = mapping.prot;
		vma->vm_private_data = obj;
		vma->vm_ops = aperture_ops(obj, vma->vm_flags);
		ret = aperture_map(obj, vma);
	}
	/* Whoever fails here has all that was inserted unmapped. */
	if (!ret && aperture_trusts_zero(obj) && aperture_maps_writable(vma))
		ret = -EPERM;
	up_read(&obj->lock);
	return ret;
}

#ifdef DEVEXCL_HAS_MMAP_PREPARE
/* Here we say what is to be inserted, and mm does it when the mapping is made. */
static int aperture_prepare_action(struct aperture_object *obj,
				   struct vm_area_desc *desc)
{
	unsigned long first = desc->pgoff - obj->pgoff;
	unsigned long nr = vma_desc_pages(desc);
	unsigned long pfn = aperture_memory_pfn(obj->memory, first);

	switch (obj->map) {
	case DEVEXCL_MAP_FAULT:
		return 0;
	case DEVEXCL_MAP_INSERT_PAGES:
		/* The memory stays where it is: such objects do not move. */
		if (aperture_has_zero(obj))
			return -EINVAL;
		mmap_action_map_kernel_pages_full(desc,
						  obj->memory->pages + first);
		return 0;
	case DEVEXCL_MAP_REMAP_PFN:
		if (nr > 1 && !obj->memory->pfn)
			return -EINVAL;
		mmap_action_remap_full(desc, pfn);
		return 0;
	default:
		if (nr > 1 && !obj->memory->pfn)
			return -EINVAL;
		mmap_action_ioremap_full(desc, pfn);
		return 0;
	}
}

static void aperture_prepare_flags(const struct aperture_object *obj,
				   struct vm_area_desc *desc)
{
	vma_desc_set_flags(desc, VMA_DONTEXPAND_BIT, VMA_DONTDUMP_BIT);
	if (obj->flags & DEVEXCL_CREATE_READ_ONLY)
		vma_desc_clear_flags(desc, VMA_MAYWRITE_BIT);
	if (obj->flags & DEVEXCL_CREATE_VM_IO)
		vma_desc_set_flags(desc, VMA_IO_BIT);
	if (obj->vma == DEVEXCL_VMA_PFN)
		vma_desc_set_flags(desc, VMA_PFNMAP_BIT);
	else if (obj->vma == DEVEXCL_VMA_MIXED)
		vma_desc_set_flags(desc, VMA_MIXEDMAP_BIT);
}

static int aperture_mmap_prepare(struct vm_area_desc *desc)
{
	struct aperture_ctx *ctx = desc->file->private_data;
	struct aperture_mapping mapping;
	struct aperture_object *obj;
	int ret;

	obj = aperture_object_at(ctx, desc->pgoff, vma_desc_pages(desc));
	if (!obj)
		return -ENXIO;
	if (down_read_killable(&obj->lock))
		return -EINTR;
	ret = aperture_check_map(obj, vma_flags_to_legacy(desc->vma_flags),
				 &mapping);
	if (!ret) {
		aperture_prepare_flags(obj, desc);
		desc->page_prot = mapping.prot;
		desc->private_data = obj;
		desc->vm_ops = aperture_ops(obj,
					    vma_flags_to_legacy(desc->vma_flags));
		ret = aperture_prepare_action(obj, desc);
	}
	up_read(&obj->lock);
	return ret;
}
#endif /* DEVEXCL_HAS_MMAP_PREPARE */

/* What user space sees of page tables */

static int aperture_inspect(unsigned long addr, unsigned int nr,
			    struct devexcl_entry *entries)
{
	struct mm_struct *mm = current->mm;
	unsigned int i;
	int ret = 0;

	memset(entries, 0, nr * sizeof(*entries));
	if (mmap_read_lock_killable(mm))
		return -EINTR;
	for (i = 0; i < nr; i++, addr += PAGE_SIZE) {
		struct vm_area_struct *vma = find_vma(mm, addr);

		/* Page tables where nothing is mapped may just be freed. */
		if (!vma || addr < vma->vm_start)
			continue;
		if (is_vm_hugetlb_page(vma)) {
			ret = -EOPNOTSUPP;
			break;
		}
		aperture_entry(mm, addr, &entries[i]);
	}
	mmap_read_unlock(mm);
	return ret;
}

static int aperture_ioctl_inspect(struct aperture_ctx *ctx, void *data)
{
	struct devexcl_entry entries[APERTURE_BATCH_INFOS];
	struct devexcl_aperture_inspect *arg = data;
	struct devexcl_entry __user *uentries = u64_to_user_ptr(arg->entries);
	u64 nr_pages = arg->length >> PAGE_SHIFT;
	int ret = 0;

	arg->done = 0;
	if (!arg->length || !PAGE_ALIGNED(arg->addr | arg->length))
		return -EINVAL;
	if (arg->addr + arg->length < arg->addr)
		return -EOVERFLOW;
	if (arg->addr + arg->length > TASK_SIZE_MAX)
		return -EFAULT;

	while (!ret && arg->done < nr_pages) {
		unsigned int nr = min_t(u64, nr_pages - arg->done,
					ARRAY_SIZE(entries));

		ret = aperture_inspect(arg->addr + (arg->done << PAGE_SHIFT),
				       nr, entries);
		if (!ret && copy_to_user(uentries + arg->done, entries,
					 nr * sizeof(*entries)))
			ret = -EFAULT;
		if (ret)
			break;
		arg->done += nr;
		if (signal_pending(current))
			ret = -EINTR;
		cond_resched();
	}
	return arg->done ? 0 : ret;
}

/* What user space asks for */

static u32 aperture_maps(const struct aperture_ctx *ctx)
{
	if (ctx->prepare)
		return BIT(DEVEXCL_MAP_FAULT) | BIT(DEVEXCL_MAP_INSERT_PAGES) |
		       BIT(DEVEXCL_MAP_REMAP_PFN) | BIT(DEVEXCL_MAP_IOMAP);
	return GENMASK(DEVEXCL_MAP_NR - 1, 0);
}

#define APERTURE_BROKEN							\
	(DEVEXCL_APERTURE_BROKEN_NO_ZAP | DEVEXCL_APERTURE_BROKEN_WB |	\
	 DEVEXCL_APERTURE_BROKEN_ALLOW_WRITE |				\
	 DEVEXCL_APERTURE_BROKEN_TRUST_ZERO)

/* A kernel that does not care about the zero page must not be trusted. */
static u32 aperture_broken(void)
{
	u32 broken = APERTURE_BROKEN;

	if (!(DEVEXCL_APERTURE_CAPS & DEVEXCL_APERTURE_CAP_ZERO_CHECKED))
		broken &= ~DEVEXCL_APERTURE_BROKEN_TRUST_ZERO;
	return broken;
}

static u64 aperture_caps(void)
{
	u64 caps = DEVEXCL_APERTURE_CAPS;

	if (IS_ENABLED(CONFIG_MAPPING_DIRTY_HELPERS))
		caps |= DEVEXCL_APERTURE_CAP_CLEAN;
#ifdef CONFIG_X86
	if (pat_enabled())
		caps |= DEVEXCL_APERTURE_CAP_PAT;
#endif
	return caps;
}

static int aperture_ioctl_info(struct aperture_ctx *ctx, void *data)
{
	struct devexcl_aperture_info *arg = data;

	arg->abi_version = DEVEXCL_ABI_VERSION;
	arg->page_size = PAGE_SIZE;
	arg->pmd_pages = APERTURE_PMD_PAGES;
	arg->max_objects = APERTURE_MAX_OBJECTS;
	arg->max_pages = APERTURE_MAX_PAGES;
	arg->max_batch = APERTURE_MAX_BATCH;
	arg->max_pause_ms = APERTURE_MAX_PAUSE_MS;
	arg->io = aperture_has_bar() ? DEVEXCL_IO_BAR : DEVEXCL_IO_STANDIN;
	arg->io_pages = aperture_bar.pages;
	arg->inserts = DEVEXCL_APERTURE_INSERTS;
	arg->maps = aperture_maps(ctx);
	arg->broken = aperture_broken();
	arg->caps = aperture_caps();
	return 0;
}

/* Does what mmap() inserts go with what the mapping is? */
static bool aperture_map_fits(u32 map, u32 vma)
{
	switch (map) {
	case DEVEXCL_MAP_FAULT:
		return true;
	case DEVEXCL_MAP_REMAP_PFN:
	case DEVEXCL_MAP_IOMAP:
		return vma != DEVEXCL_VMA_MIXED;
	default:
		return vma != DEVEXCL_VMA_PFN;
	}
}

static int aperture_check_create(const struct aperture_ctx *ctx,
				 const struct devexcl_aperture_create *arg)
{
	if (!arg->pages || arg->pages > APERTURE_MAX_PAGES || arg->reserved)
		return -EINVAL;
	if (!arg->batch || arg->batch > APERTURE_MAX_BATCH)
		return -EINVAL;
	if (arg->vma >= DEVEXCL_VMA_NR || arg->map >= DEVEXCL_MAP_NR ||
	    arg->vma_caching >= DEVEXCL_CACHING_OTHER)
		return -EINVAL;
	if (arg->part && (arg->map != DEVEXCL_MAP_REMAP_PFN ||
			  arg->part > arg->pages || ctx->prepare))
		return -EINVAL;
	if (!aperture_map_fits(arg->map, arg->vma))
		return -EINVAL;
	if (!(aperture_maps(ctx) & BIT(arg->map)))
		return -EOPNOTSUPP;
	return aperture_memory_check(arg->pages, arg->placement, arg->caching);
}

static int aperture_add(struct aperture_ctx *ctx, struct aperture_object *obj)
{
	unsigned int id;

	if (mutex_lock_killable(&ctx->lock))
		return -EINTR;
	for (id = 0; id < APERTURE_MAX_OBJECTS; id++)
		if (!ctx->objects[id])
			break;
	if (id < APERTURE_MAX_OBJECTS)
		smp_store_release(&ctx->objects[id], obj); /* it is complete */
	mutex_unlock(&ctx->lock);
	return id < APERTURE_MAX_OBJECTS ? id : -ENOSPC;
}

static struct aperture_object *
aperture_object_alloc(struct aperture_ctx *ctx,
		      const struct devexcl_aperture_create *arg)
{
	struct aperture_object *obj;
	unsigned int i;

	obj = kvzalloc(struct_size(obj, page, arg->pages), GFP_KERNEL_ACCOUNT);
	if (!obj)
		return NULL;
	obj->ctx = ctx;
	obj->pgoff = APERTURE_FIRST_PGOFF +
		     atomic64_inc_return(&aperture_serial) * APERTURE_MAX_PAGES;
	obj->nr = arg->pages;
	obj->flags = arg->flags;
	obj->vma = arg->vma;
	obj->map = arg->map;
	obj->vma_caching = arg->vma_caching;
	obj->batch = arg->batch;
	obj->part = arg->part;
	init_rwsem(&obj->lock);
	for (i = 0; i < obj->nr; i++)
		obj->page[i].caching = arg->caching;
	return obj;
}

static void aperture_object_free(struct aperture_object *obj)
{
	aperture_memory_free(obj->memory);
	aperture_memory_free(obj->kept);
	kvfree(obj);
}

static int aperture_ioctl_create(struct aperture_ctx *ctx, void *data)
{
	struct devexcl_aperture_create *arg = data;
	struct aperture_memory *memory;
	struct aperture_object *obj;
	int ret;

	ret = aperture_check_create(ctx, arg);
	if (ret)
		return ret;
	obj = aperture_object_alloc(ctx, arg);
	if (!obj)
		return -ENOMEM;
	memory = aperture_memory_alloc(arg->pages, arg->placement,
				       arg->caching);
	if (IS_ERR(memory)) {
		ret = PTR_ERR(memory);
		goto out_free;
	}
	obj->memory = memory;
	/* Others may use it from now on. */
	ret = aperture_add(ctx, obj);
	if (ret < 0)
		goto out_free;
	arg->id = ret;
	arg->offset = (u64)obj->pgoff << PAGE_SHIFT;
	return 0;

out_free:
	aperture_object_free(obj);
	return ret;
}

static int aperture_check_policy(const struct devexcl_aperture_policy *arg)
{
	if (arg->insert >= DEVEXCL_INSERT_NR || arg->reserved ||
	    arg->caching >= DEVEXCL_CACHING_OTHER)
		return -EINVAL;
	if (arg->flags & DEVEXCL_POLICY_READ_ONLY &&
	    arg->insert != DEVEXCL_INSERT_PFN_PROT &&
	    arg->insert != DEVEXCL_INSERT_MIXED_PROT)
		return -EINVAL;
	return DEVEXCL_APERTURE_INSERTS & BIT(arg->insert) ? 0 : -EOPNOTSUPP;
}

static bool aperture_is_cached(const struct aperture_object *obj, u32 first,
			       u32 count, enum devexcl_caching caching)
{
	u32 i;

	for (i = first; i < first + count; i++)
		if (obj->page[i].caching != caching)
			return false;
	return true;
}

/* Can single pages have a caching mode of their own? */
static bool aperture_can_recache(const struct aperture_memory *memory)
{
	return memory->pages && memory->placement != DEVEXCL_PLACE_FOLIO;
}

/* Change the caching mode of pages that nobody has mapped. */
static int aperture_recache(struct aperture_object *obj, u32 first, u32 count,
			    enum devexcl_caching caching)
{
	struct aperture_memory *memory = obj->memory;
	u32 i;
	int ret;

	memory->not_wb = true;
	ret = aperture_set_caching(memory->pages + first, count, caching);
	if (ret)
		caching = DEVEXCL_CACHING_WB;
	for (i = first; i < first + count; i++)
		obj->page[i].caching = caching;
	return ret;
}

/* The same, of pages that may be mapped; then they get their policy. */
static int aperture_set_policy(struct aperture_object *obj,
			       const struct devexcl_aperture_policy *arg)
{
	bool same = aperture_is_cached(obj, arg->first, arg->count,
				       arg->caching);
	int ret = 0;
	u32 i;

	lockdep_assert_held_write(&obj->lock);
	if (!same && !aperture_can_recache(obj->memory))
		return -EINVAL;
	aperture_zap(obj, arg->first, arg->count, false);
	if (!same)
		ret = aperture_recache(obj, arg->first, arg->count,
				       arg->caching);
	if (ret)
		return ret;
	for (i = arg->first; i < arg->first + arg->count; i++) {
		obj->page[i].insert = arg->insert;
		obj->page[i].flags = arg->flags;
	}
	if (arg->insert == DEVEXCL_INSERT_PFN_PMD ||
	    arg->insert == DEVEXCL_INSERT_FOLIO_PMD)
		obj->huge = true;
	return 0;
}

static int aperture_ioctl_policy(struct aperture_ctx *ctx, void *data)
{
	struct devexcl_aperture_policy *arg = data;
	struct aperture_object *obj;
	int ret;

	ret = aperture_check_policy(arg);
	if (ret)
		return ret;
	obj = aperture_object_pages(ctx, arg->id, arg->first, arg->count);
	if (IS_ERR(obj))
		return PTR_ERR(obj);
	if (down_write_killable(&obj->lock))
		return -EINTR;
	ret = aperture_set_policy(obj, arg);
	up_write(&obj->lock);
	return ret;
}

/* Who waits here has all faults wait. */
static int aperture_pause(unsigned int ms)
{
	if (ms)
		schedule_timeout_killable(msecs_to_jiffies(ms));
	return fatal_signal_pending(current) ? -EINTR : 0;
}

/*
 * Functions that make an entry writable, and those for huge entries, warn if
 * they find another page than they are to insert.
 */
static bool aperture_minds_stale(const struct aperture_object *obj)
{
	unsigned int i;

	for (i = 0; i < obj->nr; i++)
		if (obj->page[i].insert == DEVEXCL_INSERT_MIXED_MKWRITE ||
		    obj->page[i].insert == DEVEXCL_INSERT_PAGE_MKWRITE)
			return true;
	return obj->huge;
}

/*
 * Give the object @memory instead of what it has. With the object's lock held
 * for writing.
 *
 * Return: what it had, or an error.
 */
static struct aperture_memory *aperture_switch(struct aperture_object *obj,
					       struct aperture_memory *memory,
					       const struct devexcl_aperture_move *arg,
					       void *buf)
{
	bool broken = READ_ONCE(obj->broken) & DEVEXCL_APERTURE_BROKEN_NO_ZAP;
	struct aperture_memory *old = obj->memory;
	unsigned int i;
	int ret;

	lockdep_assert_held_write(&obj->lock);
	/* What we left behind would be taken for a kernel bug. */
	if (broken && (obj->kept || aperture_minds_stale(obj)))
		return ERR_PTR(-EBUSY);
	if (!broken)
		aperture_zap(obj, 0, obj->nr, arg->flags & DEVEXCL_MOVE_COPIES);
	ret = aperture_pause(arg->pause_ms);
	if (ret)
		return ERR_PTR(ret);

	for (i = 0; i < obj->nr; i++) {
		unsigned long offset = (unsigned long)i << PAGE_SHIFT;

		aperture_memory_read(old, offset, buf, PAGE_SIZE);
		aperture_memory_write(memory, offset, buf, PAGE_SIZE);
		obj->page[i].caching = memory->caching;
		cond_resched();
	}
	obj->memory = memory;
	if (!broken)
		return old;
	obj->kept = old;
	return NULL;
}

static int aperture_ioctl_move(struct aperture_ctx *ctx, void *data)
{
	struct devexcl_aperture_move *arg = data;
	enum devexcl_caching caching = arg->caching;
	struct aperture_memory *memory, *old;
	struct aperture_object *obj;
	void *buf;
	int ret;

	if (arg->pause_ms > APERTURE_MAX_PAUSE_MS)
		return -EINVAL;
	obj = aperture_object(ctx, arg->id);
	if (IS_ERR(obj))
		return PTR_ERR(obj);
	ret = aperture_memory_check(obj->nr, arg->placement, arg->caching);
	if (ret)
		return ret;
	if (obj->map != DEVEXCL_MAP_FAULT)
		return -EOPNOTSUPP;
	if (READ_ONCE(obj->broken) & DEVEXCL_APERTURE_BROKEN_WB)
		caching = DEVEXCL_CACHING_WB;
	buf = (void *)__get_free_page(GFP_KERNEL);
	if (!buf)
		return -ENOMEM;
	memory = aperture_memory_alloc(obj->nr, arg->placement, caching);
	if (IS_ERR(memory)) {
		ret = PTR_ERR(memory);
		goto out;
	}

	old = ERR_PTR(-EINTR);
	if (!down_write_killable(&obj->lock)) {
		old = aperture_switch(obj, memory, arg, buf);
		up_write(&obj->lock);
	}
	if (IS_ERR(old)) {
		ret = PTR_ERR(old);
		old = memory;
	}
	aperture_memory_free(old);
out:
	free_page((unsigned long)buf);
	return ret;
}

static int aperture_ioctl_zap(struct aperture_ctx *ctx, void *data)
{
	struct devexcl_aperture_range *arg = data;
	struct aperture_object *obj;

	if (arg->reserved)
		return -EINVAL;
	obj = aperture_object_pages(ctx, arg->id, arg->first, arg->count);
	if (IS_ERR(obj))
		return PTR_ERR(obj);
	if (down_write_killable(&obj->lock))
		return -EINTR;
	aperture_zap(obj, arg->first, arg->count,
		     arg->flags & DEVEXCL_MOVE_COPIES);
	up_write(&obj->lock);
	return 0;
}

#ifdef CONFIG_MAPPING_DIRTY_HELPERS
static int aperture_clean(struct aperture_object *obj,
			  struct devexcl_aperture_range *arg)
{
	unsigned long first = obj->pgoff + arg->first;
	pgoff_t start = 0, end = 0;	/* offsets of what was dirty */
	unsigned long *dirty;

	dirty = bitmap_zalloc(arg->count, GFP_KERNEL_ACCOUNT);
	if (!dirty)
		return -ENOMEM;
	/* In this order: what is written in between is announced. */
	arg->protected = wp_shared_mapping_range(obj->ctx->mapping, first,
						 arg->count);
	arg->cleaned = clean_record_shared_mapping_range(obj->ctx->mapping,
							 first, arg->count,
							 first, dirty,
							 &start, &end);
	bitmap_free(dirty);
	return 0;
}
#else
static int aperture_clean(struct aperture_object *obj,
			  struct devexcl_aperture_range *arg)
{
	return -EOPNOTSUPP;
}
#endif

static int aperture_ioctl_clean(struct aperture_ctx *ctx, void *data)
{
	struct devexcl_aperture_range *arg = data;
	struct aperture_object *obj;
	int ret;

	arg->protected = 0;
	arg->cleaned = 0;
	if (arg->reserved)
		return -EINVAL;
	obj = aperture_object_pages(ctx, arg->id, arg->first, arg->count);
	if (IS_ERR(obj))
		return PTR_ERR(obj);
	if (down_write_killable(&obj->lock))
		return -EINTR;
	/* The kernel warns of huge entries that are writable. */
	ret = obj->huge ? -EOPNOTSUPP : aperture_clean(obj, arg);
	up_write(&obj->lock);
	return ret;
}

static void aperture_page_info(const struct aperture_object *obj,
			       unsigned long index,
			       struct devexcl_aperture_page *info)
{
	const struct aperture_page *page = &obj->page[index];
	struct page *p = aperture_page(obj, index);

	memset(info, 0, sizeof(*info));
	info->pfn = aperture_pfn(obj, index);
	info->faults = atomic_read(&page->faults);
	info->page_mkwrites = atomic_read(&page->page_mkwrites);
	info->pfn_mkwrites = atomic_read(&page->pfn_mkwrites);
	info->error = READ_ONCE(page->error);
	if (!p)
		return;
	info->refcount = folio_ref_count(page_folio(p));
	info->mapcount = devexcl_folio_mapcount(page_folio(p));
}

static int aperture_page_infos(struct aperture_object *obj,
			       struct devexcl_aperture_pages *arg,
			       struct devexcl_aperture_page *infos,
			       unsigned int nr)
{
	unsigned int i;

	if (down_read_killable(&obj->lock))
		return -EINTR;
	for (i = 0; i < nr; i++)
		aperture_page_info(obj, arg->first + arg->done + i, &infos[i]);
	arg->placement = obj->memory->placement;
	arg->caching = obj->page[arg->first].caching;
	up_read(&obj->lock);
	return 0;
}

static int aperture_ioctl_pages(struct aperture_ctx *ctx, void *data)
{
	struct devexcl_aperture_page infos[APERTURE_BATCH_INFOS];
	struct devexcl_aperture_pages *arg = data;
	struct devexcl_aperture_page __user *uinfos;
	struct aperture_object *obj;
	int ret = 0;

	uinfos = u64_to_user_ptr(arg->pages);
	arg->done = 0;
	obj = aperture_object_pages(ctx, arg->id, arg->first, arg->count);
	if (IS_ERR(obj))
		return PTR_ERR(obj);
	while (!ret && arg->done < arg->count) {
		unsigned int nr = min_t(u32, arg->count - arg->done,
					ARRAY_SIZE(infos));

		ret = aperture_page_infos(obj, arg, infos, nr);
		if (!ret && copy_to_user(uinfos + arg->done, infos,
					 nr * sizeof(*infos)))
			ret = -EFAULT;
		if (!ret)
			arg->done += nr;
		cond_resched();
	}
	return arg->done ? 0 : ret;
}

/* Copy within a page, by way of @buf. */
static int aperture_copy_some(struct aperture_object *obj, unsigned long offset,
			      void __user *ubuf, void *buf, size_t len,
			      bool write)
{
	if (signal_pending(current))
		return -EINTR;
	if (write && copy_from_user(buf, ubuf, len))
		return -EFAULT;
	if (down_read_killable(&obj->lock))
		return -EINTR;
	if (write)
		aperture_memory_write(obj->memory, offset, buf, len);
	else
		aperture_memory_read(obj->memory, offset, buf, len);
	up_read(&obj->lock);
	if (!write && copy_to_user(ubuf, buf, len))
		return -EFAULT;
	return 0;
}

static int aperture_ioctl_copy(struct aperture_ctx *ctx, void *data)
{
	struct devexcl_aperture_copy *arg = data;
	struct aperture_object *obj;
	u64 size;
	void *buf;
	int ret = 0;

	arg->copied = 0;
	if (arg->reserved || !arg->length)
		return -EINVAL;
	obj = aperture_object(ctx, arg->id);
	if (IS_ERR(obj))
		return PTR_ERR(obj);
	size = (u64)obj->nr << PAGE_SHIFT;
	if (arg->offset > size || arg->length > size - arg->offset)
		return -EINVAL;
	buf = (void *)__get_free_page(GFP_KERNEL);
	if (!buf)
		return -ENOMEM;
	while (!ret && arg->copied < arg->length) {
		unsigned long offset = arg->offset + arg->copied;
		size_t len = min_t(u64, arg->length - arg->copied,
				   PAGE_SIZE - offset_in_page(offset));

		ret = aperture_copy_some(obj, offset,
					 u64_to_user_ptr(arg->buf + arg->copied),
					 buf, len,
					 arg->flags & DEVEXCL_COPY_WRITE);
		if (!ret)
			arg->copied += len;
		cond_resched();
	}
	free_page((unsigned long)buf);
	return arg->copied ? 0 : ret;
}

static int aperture_ioctl_inject(struct aperture_ctx *ctx, void *data)
{
	struct devexcl_aperture_inject *arg = data;
	struct aperture_object *obj;

	if (arg->broken & ~aperture_broken() || arg->reserved ||
	    arg->fail_after > APERTURE_MAX_PAGES)
		return -EINVAL;
	obj = aperture_object(ctx, arg->id);
	if (IS_ERR(obj))
		return PTR_ERR(obj);
	WRITE_ONCE(obj->broken, arg->broken);
	atomic_set(&obj->fail_after, arg->fail_after);
	return 0;
}

/* Files */

union aperture_args {
	struct devexcl_aperture_info info;
	struct devexcl_aperture_create create;
	struct devexcl_aperture_policy policy;
	struct devexcl_aperture_move move;
	struct devexcl_aperture_range range;
	struct devexcl_aperture_pages pages;
	struct devexcl_aperture_copy copy;
	struct devexcl_aperture_inject inject;
	struct devexcl_aperture_inspect inspect;
};

/**
 * struct aperture_ioctl - how an ioctl is called
 * @cmd: number
 * @size: of its structure
 * @flags: flags that it knows
 * @fn: does it; the structure is copied back whatever it returns
 */
struct aperture_ioctl {
	unsigned int cmd;
	unsigned int size;
	unsigned int flags;
	int (*fn)(struct aperture_ctx *ctx, void *arg);
};

/* Where the numbers of the aperture begin */
#define APERTURE_FIRST	_IOC_NR(DEVEXCL_APERTURE_INFO)

#define APERTURE_IOCTL(_cmd, _name, _member, _flags)			\
	[_IOC_NR(_cmd) - APERTURE_FIRST] = {				\
		.cmd = _cmd,						\
		.size = sizeof_field(union aperture_args, _member),	\
		.flags = _flags,					\
		.fn = aperture_ioctl_##_name,				\
	}

static const struct aperture_ioctl aperture_ioctls[] = {
	APERTURE_IOCTL(DEVEXCL_APERTURE_INFO, info, info, 0),
	APERTURE_IOCTL(DEVEXCL_APERTURE_CREATE, create, create,
		       DEVEXCL_CREATE_VM_IO | DEVEXCL_CREATE_PAGE_MKWRITE |
		       DEVEXCL_CREATE_PFN_MKWRITE | DEVEXCL_CREATE_READ_ONLY |
		       DEVEXCL_CREATE_MAP_READ_ONLY),
	APERTURE_IOCTL(DEVEXCL_APERTURE_POLICY, policy, policy,
		       DEVEXCL_POLICY_ZERO | DEVEXCL_POLICY_READ_ONLY |
		       DEVEXCL_POLICY_REFUSE_WRITE),
	APERTURE_IOCTL(DEVEXCL_APERTURE_MOVE, move, move, DEVEXCL_MOVE_COPIES),
	APERTURE_IOCTL(DEVEXCL_APERTURE_ZAP, zap, range, DEVEXCL_MOVE_COPIES),
	APERTURE_IOCTL(DEVEXCL_APERTURE_CLEAN, clean, range, 0),
	APERTURE_IOCTL(DEVEXCL_APERTURE_PAGES, pages, pages, 0),
	APERTURE_IOCTL(DEVEXCL_APERTURE_COPY, copy, copy, DEVEXCL_COPY_WRITE),
	APERTURE_IOCTL(DEVEXCL_APERTURE_INJECT, inject, inject, 0),
	APERTURE_IOCTL(DEVEXCL_APERTURE_INSPECT, inspect, inspect, 0),
};

static long aperture_unlocked_ioctl(struct file *file, unsigned int cmd,
				    unsigned long uarg)
{
	void __user *user = (void __user *)uarg;
	unsigned int nr = _IOC_NR(cmd) - APERTURE_FIRST;
	const struct aperture_ioctl *ioctl;
	union aperture_args args;
	int ret;

	if (nr >= ARRAY_SIZE(aperture_ioctls) || cmd != aperture_ioctls[nr].cmd)
		return -ENOTTY;
	ioctl = &aperture_ioctls[nr];

	ret = devexcl_get_args(&args, ioctl->size, ioctl->flags, user);
	if (ret)
		return ret;
	ret = ioctl->fn(file->private_data, &args);
	if (copy_to_user(user, &args, ioctl->size))
		return -EFAULT;
	return ret;
}

static int aperture_open_file(struct file *file, bool prepare)
{
	struct aperture_ctx *ctx;

	ctx = kzalloc(sizeof(*ctx), GFP_KERNEL_ACCOUNT);
	if (!ctx)
		return -ENOMEM;
	ctx->mapping = file->f_mapping;
	ctx->prepare = prepare;
	mutex_init(&ctx->lock);
	file->private_data = ctx;
	return 0;
}

static int aperture_open(struct inode *inode, struct file *file)
{
	return aperture_open_file(file, false);
}

/* The last user of the file is gone, and so are all mappings. */
static int aperture_release(struct inode *inode, struct file *file)
{
	struct aperture_ctx *ctx = file->private_data;
	unsigned int id;

	for (id = 0; id < APERTURE_MAX_OBJECTS && ctx->objects[id]; id++)
		aperture_object_free(ctx->objects[id]);
	kfree(ctx);
	return 0;
}

static const struct file_operations aperture_fops = {
	.owner = THIS_MODULE,
	.open = aperture_open,
	.release = aperture_release,
	.mmap = aperture_mmap,
	.get_unmapped_area = thp_get_unmapped_area,
	.unlocked_ioctl = aperture_unlocked_ioctl,
	.compat_ioctl = compat_ptr_ioctl,
	.llseek = noop_llseek,
};

static struct miscdevice aperture_misc = {
	.minor = MISC_DYNAMIC_MINOR,
	.name = "devexcl_aperture",
	.fops = &aperture_fops,
	.mode = 0600,
};

#ifdef DEVEXCL_HAS_MMAP_PREPARE
static int aperture_open_prepare(struct inode *inode, struct file *file)
{
	return aperture_open_file(file, true);
}

static const struct file_operations aperture_prepare_fops = {
	.owner = THIS_MODULE,
	.open = aperture_open_prepare,
	.release = aperture_release,
	.mmap_prepare = aperture_mmap_prepare,
	.get_unmapped_area = thp_get_unmapped_area,
	.unlocked_ioctl = aperture_unlocked_ioctl,
	.compat_ioctl = compat_ptr_ioctl,
	.llseek = noop_llseek,
};

static struct miscdevice aperture_prepare_misc = {
	.minor = MISC_DYNAMIC_MINOR,
	.name = "devexcl_aperture_prepare",
	.fops = &aperture_prepare_fops,
	.mode = 0600,
};

static int aperture_register(void)
{
	int ret;

	ret = misc_register(&aperture_misc);
	if (ret)
		return ret;
	ret = misc_register(&aperture_prepare_misc);
	if (ret)
		misc_deregister(&aperture_misc);
	return ret;
}

static void aperture_unregister(void)
{
	misc_deregister(&aperture_prepare_misc);
	misc_deregister(&aperture_misc);
}
#else
static int aperture_register(void)
{
	return misc_register(&aperture_misc);
}

static void aperture_unregister(void)
{
	misc_deregister(&aperture_misc);
}
#endif /* DEVEXCL_HAS_MMAP_PREPARE */

/* The PCI device */

static int aperture_bar_take(struct pci_dev *pdev)
{
	struct aperture_bar *bar = &aperture_bar;
	int ret;

	if (!(pci_resource_flags(pdev, APERTURE_PCI_BAR) & IORESOURCE_MEM))
		return -ENODEV;
	ret = pci_enable_device(pdev);
	if (ret)
		return ret;
	ret = pci_request_region(pdev, APERTURE_PCI_BAR, KBUILD_MODNAME);
	if (ret)
		goto out_disable;
	bar->start = pci_resource_start(pdev, APERTURE_PCI_BAR);
	bar->pages = pci_resource_len(pdev, APERTURE_PCI_BAR) >> PAGE_SHIFT;
	bar->used = bitmap_zalloc(bar->pages, GFP_KERNEL);
	if (!bar->used) {
		ret = -ENOMEM;
		goto out_region;
	}
	bar->pdev = pdev;
	return 0;

out_region:
	pci_release_region(pdev, APERTURE_PCI_BAR);
	bar->pages = 0;
out_disable:
	pci_disable_device(pdev);
	return ret;
}

/*
 * Take the first device that nobody has. This is no driver for it: it shall
 * not be bound to all of its kind, which are there for others. The price is that
 * nobody tells us if the device is removed: do not, while we are loaded.
 */
static void aperture_bar_find(void)
{
	struct pci_dev *pdev = NULL;

	for (;;) {
		pdev = pci_get_device(APERTURE_PCI_VENDOR, APERTURE_PCI_DEVICE,
				      pdev);
		if (!pdev)
			break;
		if (!pdev->dev.driver && !aperture_bar_take(pdev))
			break;
	}
	if (!pdev)
		pr_info("no PCI memory, reserved pages stand in\n");
	else
		pr_info("%lu pages of PCI memory at %pa\n", aperture_bar.pages,
			&aperture_bar.start);
}

static void aperture_bar_put(void)
{
	struct aperture_bar *bar = &aperture_bar;

	if (!bar->pdev)
		return;
	WARN_ON_ONCE(!bitmap_empty(bar->used, bar->pages));
	bitmap_free(bar->used);
	pci_release_region(bar->pdev, APERTURE_PCI_BAR);
	pci_disable_device(bar->pdev);
	pci_dev_put(bar->pdev);
}

static int __init aperture_init(void)
{
	int ret;

	aperture_bar_find();
	ret = aperture_register();
	if (ret) {
		pr_err("cannot register the device: %d\n", ret);
		aperture_bar_put();
	}
	return ret;
}

static void __exit aperture_exit(void)
{
	aperture_unregister();
	aperture_bar_put();
}

module_init(aperture_init);
module_exit(aperture_exit);

MODULE_DESCRIPTION("Emulated device whose memory is mapped into processes");
MODULE_LICENSE("GPL");
MODULE_INFO(test, "Y");
