// SPDX-License-Identifier: GPL-2.0
/*
 * The columns of the matrix: kinds of memory that a device can acquire
 */
#include <dirent.h>
#include <signal.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "../kselftest.h"
#include "devexcl_aperture.h"
#include "devexcl_matrix.h"

#define THP_DIR		"/sys/kernel/mm/transparent_hugepage/"

/* Base pages: two neighbours, the target of four, two neighbours. */
#define BASE_PAGES	8
#define BASE_FIRST	2
#define BASE_TARGET	4

/* An empty file system that nobody else can find, for files that live in RAM. */
static int ramfs = -1;

static void set_target(struct cell *cell, size_t first, size_t pages)
{
	cell->first = first;
	cell->pages = pages;
}

static const char *make_base(struct cell *cell)
{
	set_target(cell, BASE_FIRST, BASE_TARGET);
	return must("mmap", mem_map(&cell->mem, BASE_PAGES));
}

/* Memory that was only read so far: the zero page is mapped everywhere. */
static const char *make_zero(struct cell *cell)
{
	struct mem *mem = &cell->mem;
	size_t page;

	TRY(make_base(cell));
	TRY(must("madvise", madvise(mem->p, mem->size, MADV_DONTNEED)));
	for (page = 0; page < mem->pages; page++)
		READ_MEM(word_of(mem, page));
	return NULL;
}

/* The last pages of the heap, as brk() makes them. */
static const char *make_heap(struct cell *cell)
{
	struct mem *mem = &cell->mem;
	size_t pad;

	/* What malloc() needs later it shall have already, below our pages. */
	free(malloc(page_size()));
	pad = -(uintptr_t)sbrk(0) & (page_size() - 1);
	mem->pages = BASE_PAGES;
	mem->size = BASE_PAGES * page_size();
	mem->p = sbrk(pad + mem->size);
	if (mem->p == (void *)-1)
		return must("sbrk", -1);
	mem->p += pad;
	set_target(cell, BASE_FIRST, BASE_TARGET);
	madvise(mem->p, mem->size, MADV_NOHUGEPAGE);
	fill_mem(mem);
	return NULL;
}

/* A mapping that grows downwards, with room for as much again. */
static const char *make_stack(struct cell *cell)
{
	struct mem *mem = &cell->mem;
	char *room;

	mem->pages = BASE_PAGES;
	mem->size = BASE_PAGES * page_size();
	/* Pages on both sides that stay, so that nobody else comes near. */
	room = mmap(NULL, 2 * mem->size + 2 * page_size(), PROT_NONE,
		    MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (room == MAP_FAILED)
		return must("mmap", -1);
	room += page_size();
	mem->p = mmap(room + mem->size, mem->size, PROT_READ | PROT_WRITE,
		      MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED | MAP_GROWSDOWN,
		      -1, 0);
	if (mem->p == MAP_FAILED)
		return must("mmap", -1);
	munmap(room, mem->size);
	set_target(cell, BASE_FIRST, BASE_TARGET);
	madvise(mem->p, mem->size, MADV_NOHUGEPAGE);
	fill_mem(mem);
	return NULL;
}

static const char *make_mlocked(struct cell *cell)
{
	TRY(make_base(cell));
	return must("mlock", mlock(cell->mem.p, cell->mem.size));
}

/* Large folios */

static const char *folio_size_file(unsigned long kb)
{
	static char name[80];

	snprintf(name, sizeof(name), THP_DIR "hugepages-%lukB/enabled", kb);
	return name;
}

/*
 * The one size below that of a PMD which is enabled, in kB, or 0; shared by all
 * cells.
 */
static unsigned long *enabled_size;

/*
 * Huge pages that a PMD maps stay enabled, or khugepaged would be ended and
 * started with each change, and nothing smaller than one is offered one.
 */
static void enable_pmd_size_only(void)
{
	struct dirent *entry;
	unsigned long size;
	DIR *dir;

	/* Without folio sizes of its own the kernel has this one switch. */
	write_file(THP_DIR "enabled", "madvise");
	dir = opendir(THP_DIR);
	if (!dir)
		return;
	while ((entry = readdir(dir)))
		if (sscanf(entry->d_name, "hugepages-%lukB", &size) == 1)
			write_file(folio_size_file(size),
				   size * 1024 == thp_size() ? "madvise" :
							       "never");
	closedir(dir);
}

/* Have folios of this size made, of those below a PMD's; or none for 0. */
static int enable_folio_size(unsigned long kb)
{
	int ret = 0;

	if (kb == *enabled_size)
		return 0;
	if (*enabled_size)
		ret = write_file(folio_size_file(*enabled_size), "never");
	*enabled_size = 0;
	if (!ret && kb)
		ret = write_file(folio_size_file(kb), "madvise");
	if (!ret)
		*enabled_size = kb;
	return ret;
}

/* One large folio of that many bytes, and nothing else, is the memory. */
static const char *map_large(struct cell *cell, size_t size)
{
	struct mem *mem = &cell->mem;
	char *p, *start;
	size_t page;

	p = mmap(NULL, 2 * size, PROT_READ | PROT_WRITE,
		 MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (p == MAP_FAILED)
		return must("mmap", -1);
	start = (char *)(((uintptr_t)p + size - 1) & ~(size - 1));
	if (start > p)
		munmap(p, start - p);
	if (p + size > start)
		munmap(start + size, p + size - start);
	mem->p = start;
	mem->size = size;
	mem->pages = size / page_size();
	/* An exclusive entry counts as swap; khugepaged must not collapse it. */
	write_file(THP_DIR "khugepaged/max_ptes_swap", "0");
	TRY(must("madvise", madvise(mem->p, mem->size, MADV_HUGEPAGE)));
	/* Filling all of a huge page takes long, and tells no more. */
	for (page = 0; page < mem->pages; page++)
		WRITE_MEM(word_of(mem, page), pattern_word(page, 0));
	return NULL;
}

static const char *require_large(const struct cell *cell)
{
	uint64_t pfn = pagemap_of(cell->mem.p) & PAGEMAP_PFN;

	return frame_flags(pfn) & KPF_COMPOUND_HEAD ? NULL :
	       skip("no large folio was to be had");
}

static const char *make_thp(struct cell *cell)
{
	size_t size = thp_size();

	if (!size)
		return skip("no transparent huge pages");
	TRY(must("disable other sizes", enable_folio_size(0)));
	set_target(cell, 0, 1);
	TRY(map_large(cell, size));
	return require_large(cell);
}

/* The folio stays large, but each page is mapped by an entry of its own. */
static const char *make_thp_pte(struct cell *cell)
{
	char *last;

	TRY(make_thp(cell));
	last = page_of(&cell->mem, cell->mem.pages - 1);
	TRY(must("mprotect", mprotect(last, page_size(), PROT_READ)));
	TRY(must("mprotect", mprotect(last, page_size(),
				      PROT_READ | PROT_WRITE)));
	/* The argument is how many hundredths into the folio the target is. */
	set_target(cell, (cell->mem.pages - 1) * cell->backing->arg / 100, 1);
	return NULL;
}

/* A folio of a size between a page and a PMD; the target is its last page. */
static const char *make_mthp(struct cell *cell)
{
	if (enable_folio_size(cell->backing->arg))
		return skip("folios of %lu kB are not offered",
			    cell->backing->arg);
	TRY(map_large(cell, cell->backing->arg * 1024));
	set_target(cell, cell->mem.pages - 1, 1);
	return require_large(cell);
}

/* Swap */

static bool all_swapped(const struct mem *mem)
{
	size_t page;

	for (page = 0; page < mem->pages; page++)
		if (entry_of(page_of(mem, page)) != ENTRY_SWAP)
			return false;
	return true;
}

/* A page in a batch of some CPU is not paged out: more than one try. */
static const char *swap_out(struct cell *cell)
{
	struct mem *mem = &cell->mem;
	int tries;

	for (tries = 0; tries < 10; tries++) {
		TRY(must("madvise", madvise(mem->p, mem->size, MADV_PAGEOUT)));
		if (all_swapped(mem))
			return NULL;
		drain_lru_batches();
	}
	return skip("pages are not swapped out: is swap on?");
}

/* Swapped out, and read since: what swap holds is still good. */
static const char *make_swapped_in(struct cell *cell)
{
	size_t page;

	TRY(make_base(cell));
	TRY(swap_out(cell));
	for (page = 0; page < cell->mem.pages; page++)
		READ_MEM(word_of(&cell->mem, page));
	return NULL;
}

/* Swapped out, and read ahead into the swap cache. */
static const char *make_swap_cache(struct cell *cell)
{
	TRY(make_base(cell));
	TRY(swap_out(cell));
	return must("madvise", madvise(cell->mem.p, cell->mem.size,
				       MADV_WILLNEED));
}

/* KSM */

#define KSM_DIR		"/sys/kernel/mm/ksm/"

/* Some kernels' KPF_KSM is said of any anonymous page; so count the mappings. */
static bool all_merged(const struct mem *mem)
{
	size_t page;

	for (page = 0; page < mem->pages; page++)
		if (mapcount_of(page_of(mem, page)) < 2)
			return false;
	return true;
}

const char *start_ksmd(const char *how)
{
	write_file(KSM_DIR "sleep_millisecs", "0");
	return must("start ksmd", write_file(KSM_DIR "run", how));
}

void stop_ksmd(void)
{
	/* Unless it sleeps it hardly lets anybody have the lock of "run". */
	write_file(KSM_DIR "sleep_millisecs", "3600000");
	write_file(KSM_DIR "run", "0");
}

/* Two regions with the same contents, which ksmd has made one. */
static const char *make_ksm(struct cell *cell)
{
	static struct mem twin;
	long scans = read_number(KSM_DIR "full_scans");
	const char *ret = NULL;

	if (scans < 0)
		return skip("no KSM");
	TRY(make_base(cell));
	TRY(must("mmap", mem_map(&twin, cell->mem.pages)));
	TRY(must("madvise", madvise(cell->mem.p, cell->mem.size,
				    MADV_MERGEABLE)));
	TRY(must("madvise", madvise(twin.p, twin.size, MADV_MERGEABLE)));
	write_file(KSM_DIR "pages_to_scan", "1000");
	/* Pages that were not merged are not to be passed over later. */
	write_file(KSM_DIR "smart_scan", "0");
	TRY(start_ksmd("1"));
	while (!ret && !all_merged(&cell->mem)) {
		long last = read_number(KSM_DIR "full_scans"), now;

		/* Looking at the pages meanwhile would hold ksmd up. */
		while ((now = read_number(KSM_DIR "full_scans")) == last)
			nap();
		if (now > scans + 2000)
			ret = skip("ksmd does not merge");
	}
	stop_ksmd();
	/* What it has merged stays merged; it shall not merge again. */
	madvise(twin.p, twin.size, MADV_UNMERGEABLE);
	return ret;
}

/* Shared by fork */

static void wait_for_end(void)
{
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	for (;;)
		pause();
}

/* We are the parent; a child has the pages as well. */
static const char *make_fork_parent(struct cell *cell)
{
	TRY(make_base(cell));
	cell->child = fork();
	if (!cell->child)
		wait_for_end();
	return must("fork", cell->child);
}

/* We are the child; our parent has the pages as well, and waits for us. */
static const char *make_fork_child(struct cell *cell)
{
	pid_t pid;

	TRY(make_base(cell));
	pid = fork();
	if (pid > 0) {
		int status = wait_child(pid);

		_exit(status < 0 ? 128 - status : status);
	}
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	return must("fork", pid);
}

/* Private mappings of something else */

/* Each word of the file is the complement of what memory will hold. */
static const char *fill_file(int fd, size_t pages)
{
	uint64_t words[512];
	size_t page, i, n = page_size() / sizeof(*words);

	for (page = 0; page < pages; page++) {
		for (i = 0; i < n; i++) {
			words[i % 512] = ~pattern_word(page, i);
			if (i % 512 == 511 &&
			    write(fd, words, sizeof(words)) != sizeof(words))
				return must("write", -1);
		}
	}
	return NULL;
}

static const char *map_privately(struct cell *cell, int fd, off_t offset)
{
	struct mem *mem = &cell->mem;

	cell->fd = fd;
	mem->pages = BASE_PAGES;
	mem->size = BASE_PAGES * page_size();
	/* Pages on both sides that stay, as those of mem_map(). */
	mem->p = mmap(NULL, mem->size + 2 * page_size(), PROT_NONE,
		      MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (mem->p == MAP_FAILED)
		return must("mmap", -1);
	mem->p = mmap(mem->p + page_size(), mem->size, PROT_READ | PROT_WRITE,
		      MAP_PRIVATE | MAP_FIXED, fd, offset);
	if (mem->p == MAP_FAILED)
		return must("mmap", -1);
	set_target(cell, BASE_FIRST, BASE_TARGET);
	fill_mem(mem);
	return NULL;
}

static const char *map_file(struct cell *cell, int fd)
{
	TRY(must("create file", fd));
	TRY(fill_file(fd, BASE_PAGES));
	return map_privately(cell, fd, 0);
}

static const char *make_file(struct cell *cell)
{
	int fd;

	if (ramfs < 0)
		return skip("no ramfs");
	fd = openat(ramfs, "file", O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	/* The file lives until we do. */
	unlinkat(ramfs, "file", 0);
	return map_file(cell, fd);
}

static const char *make_shmem(struct cell *cell)
{
	return map_file(cell, memfd_create("devexcl", MFD_CLOEXEC));
}

/* Migration */

static void move_for_ever(pid_t pid, void *p, unsigned long *rounds)
{
	int node = 0, status;

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	go_to_other_cpus();
	for (;;) {
		node = !node;
		syscall(SYS_move_pages, pid, 1UL, &p, &node, &status, 2);
		__atomic_fetch_add(rounds, 1, __ATOMIC_SEQ_CST);
	}
}

/* Somebody moves the target from node to node, all the time. */
static const char *make_migrating(struct cell *cell)
{
	pid_t self = getpid();
	int status = -1, node = 1;
	void *p;

	TRY(make_base(cell));
	set_target(cell, BASE_FIRST, 1);
	p = target(cell);
	if (syscall(SYS_move_pages, 0, 1UL, &p, &node, &status, 2) || status != 1)
		return skip("pages cannot be moved to a second node");
	cell->rounds = mmap(NULL, page_size(), PROT_READ | PROT_WRITE,
			    MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (cell->rounds == MAP_FAILED)
		return must("mmap", -1);
	cell->child = fork();
	if (!cell->child)
		move_for_ever(self, p, cell->rounds);
	return must("fork", cell->child);
}

static int mount_ramfs(void)
{
	char dir[] = "/tmp/devexcl-XXXXXX";
	int fd = -1;

	if (!mkdtemp(dir))
		return -1;
	if (!mount("devexcl", dir, "ramfs", 0, NULL)) {
		fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
		umount2(dir, MNT_DETACH);
	}
	rmdir(dir);
	return fd;
}

int prepare_backings(void)
{
	enabled_size = mmap(NULL, page_size(), PROT_READ | PROT_WRITE,
			    MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (enabled_size == MAP_FAILED)
		return -errno;
	enable_pmd_size_only();
	ramfs = mount_ramfs();
	return 0;
}

#define THP_TRAITS	(TRAIT_LARGE | TRAIT_PMD_SIZE | TRAIT_SINGLE)
#define MTHP_TRAITS	(TRAIT_LARGE | TRAIT_SINGLE)

/* What the driver has is the complement of what memory will hold, too. */
static const char *fill_object(struct object *obj)
{
	const size_t words = page_size() / sizeof(uint64_t);
	struct mem mem;
	uint64_t *word;
	size_t i;
	int ret;

	TRY(must("mmap", object_map(obj, &mem, PROT_READ | PROT_WRITE,
				    MAP_SHARED)));
	word = word_of(&mem, 0);
	for (i = 0; i < obj->pages * words; i++)
		word[i] = ~pattern_word(i / words, i % words);
	ret = munmap(mem.p, mem.size);
	return must("munmap", ret);
}

/* Memory of a driver in a mixed map; @arg: how it is inserted */
static const char *make_driver(struct cell *cell)
{
	const struct devexcl_aperture_create like = {
		.pages = BASE_PAGES,
		.vma = DEVEXCL_VMA_MIXED,
	};
	struct aperture ap;
	struct object obj;
	int ret;

	ret = aperture_open(&ap, false);
	if (ret == -ENOENT)
		return skip("no /dev/devexcl_aperture");
	TRY(must("open", ret));
	TRY(must("CREATE", object_create(&ap, &obj, &like)));
	TRY(must("POLICY", object_policy(&obj, 0, BASE_PAGES,
					 cell->backing->arg, 0)));
	TRY(fill_object(&obj));
	return map_privately(cell, ap.fd, obj.offset);
}

const struct backing backings[] = {
	{ "base", TRAIT_TYPICAL, 0, make_base },
	{ "zero", TRAIT_ZERO, 0, make_zero },
	{ "heap", TRAIT_HEAP, 0, make_heap },
	{ "stack", TRAIT_STACK, 0, make_stack },
	{ "mlocked", TRAIT_MLOCK, 0, make_mlocked },
	{ "swapped_in", 0, 0, make_swapped_in },
	{ "swap_cache", TRAIT_SWAPPED, 0, make_swap_cache },
	{ "ksm", 0, 0, make_ksm },
	{ "fork_parent", TRAIT_FORK, 0, make_fork_parent },
	{ "fork_child", TRAIT_FORK, 0, make_fork_child },
	{ "file_cow", TRAIT_FILE, 0, make_file },
	{ "shmem_cow", TRAIT_FILE, 0, make_shmem },
	{ "driver_cow", TRAIT_FILE | TRAIT_DRIVER, DEVEXCL_INSERT_MIXED,
	  make_driver },
	{ "thp", THP_TRAITS | TRAIT_FIRST | TRAIT_ALIKE, 0, make_thp },
	{ "thp_first_pte", THP_TRAITS | TRAIT_FIRST | TRAIT_ALIKE, 0,
	  make_thp_pte },
	{ "thp_middle_pte", THP_TRAITS | TRAIT_ALIKE, 50, make_thp_pte },
	{ "thp_last_pte", THP_TRAITS | TRAIT_TYPICAL, 100, make_thp_pte },
	{ "mthp_16k", MTHP_TRAITS | TRAIT_ALIKE, 16, make_mthp },
	{ "mthp_32k", MTHP_TRAITS | TRAIT_ALIKE, 32, make_mthp },
	{ "mthp_64k", MTHP_TRAITS | TRAIT_TYPICAL, 64, make_mthp },
	{ "mthp_128k", MTHP_TRAITS | TRAIT_ALIKE, 128, make_mthp },
	{ "mthp_256k", MTHP_TRAITS | TRAIT_ALIKE, 256, make_mthp },
	{ "mthp_512k", MTHP_TRAITS | TRAIT_ALIKE, 512, make_mthp },
	{ "mthp_1024k", MTHP_TRAITS | TRAIT_ALIKE, 1024, make_mthp },
	{ "migrating", TRAIT_MOVING | TRAIT_SINGLE, 0, make_migrating },
};

const size_t nr_backings = ARRAY_SIZE(backings);
