// SPDX-License-Identifier: GPL-2.0
/*
 * Memory that a device cannot have: each kind is refused with its own error,
 * and is as it was before
 *
 * Each kind is made at the same place, between two good pages that the device
 * can have. What it is refused for, it is refused for on all ways to it: when
 * acquired alone or among others, when an operation asks for it, and when it
 * is copied.
 */
#include <linux/perf_event.h>
#include <linux/userfaultfd.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <sys/auxv.h>
#include <sys/shm.h>
#include <sys/syscall.h>

#include "devexcl_test.h"

#define GOOD_WORD	0x600d600d600d600dULL
#define BAD_WORD	0x0bad0bad0bad0badULL

/* The space between the end of a stack and what is below it, in pages. */
#define STACK_GAP	40

/* The largest huge page that is tried, in pages. */
#define MAX_HUGE_PAGES	8192

/* Reserved addresses, which teardown gives back. */
#define SPACE		(64UL << 20)

/**
 * struct place - where something is that the device shall not have
 * @space: reserved addresses around it
 * @p: the memory
 * @size: its size; of a huge page, if it is one
 * @before: good page before it, or NULL
 * @after: good page behind it, or NULL
 * @fd: something that has to be kept open
 * @poisoned: page frame to be healed again
 * @huge_pages: number of huge pages that there were, plus 1
 * @skip: why this machine cannot make it
 */
struct place {
	char *space;
	char *p;
	size_t size;
	char *before;
	char *after;
	int fd;
	uint64_t poisoned;
	long huge_pages;
	const char *skip;
};

/* What each way to the memory says. */
struct answers {
	int acquire;
	int read;
	int write;
};

static void *map_at(char *p, size_t size, int prot, int flags, int fd)
{
	return mmap(p, size, prot, flags | MAP_FIXED, fd, 0);
}

static char *map_good_page(char *p)
{
	uint64_t *word = map_at(p, page_size(), PROT_READ | PROT_WRITE,
				MAP_PRIVATE | MAP_ANONYMOUS, -1);

	if (word == MAP_FAILED)
		return NULL;
	madvise(word, page_size(), MADV_NOHUGEPAGE);
	*word = GOOD_WORD;
	return (char *)word;
}

/* An ordinary page at the place, to be spoiled. */
static int map_ordinary(struct place *place)
{
	if (!map_good_page(place->p))
		return -errno;
	*(uint64_t *)place->p = BAD_WORD;
	return 0;
}

/* Something else at the place. */
static int map_other(struct place *place, int prot, int flags, int fd)
{
	if (map_at(place->p, place->size, prot, flags, fd) == MAP_FAILED)
		return -errno;
	if (prot & PROT_WRITE)
		*(uint64_t *)place->p = BAD_WORD;
	return 0;
}

/* The kinds of memory */

static int make_unmapped(struct place *place, struct answers *answers)
{
	return munmap(place->p, place->size);
}

static int make_prot_none(struct place *place, struct answers *answers)
{
	return map_ordinary(place) ?:
	       mprotect(place->p, place->size, PROT_NONE);
}

static int make_read_only(struct place *place, struct answers *answers)
{
	return map_ordinary(place) ?:
	       mprotect(place->p, place->size, PROT_READ);
}

/* Nobody ever wrote to it. */
static int make_read_only_zero(struct place *place, struct answers *answers)
{
	return map_other(place, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1);
}

static int make_shared_anon(struct place *place, struct answers *answers)
{
	return map_other(place, PROT_READ | PROT_WRITE,
			 MAP_SHARED | MAP_ANONYMOUS, -1);
}

static int open_memfd(struct place *place, unsigned int flags)
{
	uint64_t word = BAD_WORD;

	place->fd = syscall(SYS_memfd_create, "devexcl", flags);
	if (place->fd < 0 || ftruncate(place->fd, place->size))
		return -errno;
	if (!flags && pwrite(place->fd, &word, sizeof(word), 0) < 0)
		return -errno;
	return 0;
}

static int make_memfd(struct place *place, struct answers *answers)
{
	return open_memfd(place, 0) ?:
	       map_other(place, PROT_READ | PROT_WRITE, MAP_SHARED, place->fd);
}

/* Private, but its pages are still those of the file. */
static int make_private_file(struct place *place, struct answers *answers)
{
	return open_memfd(place, 0) ?:
	       map_other(place, PROT_READ, MAP_PRIVATE, place->fd);
}

static int make_tmpfs_file(struct place *place, struct answers *answers)
{
	char name[] = "/tmp/devexcl.XXXXXX";

	place->fd = mkstemp(name);
	if (place->fd < 0 || unlink(name) ||
	    ftruncate(place->fd, place->size))
		return -errno;
	return map_other(place, PROT_READ | PROT_WRITE, MAP_SHARED, place->fd);
}

static int make_sysv_shm(struct place *place, struct answers *answers)
{
	int id = shmget(IPC_PRIVATE, place->size, IPC_CREAT | 0600);
	void *p;

	if (id < 0) {
		place->skip = "no System V shared memory is to be had";
		return 0;
	}
	munmap(place->p, place->size);
	p = shmat(id, place->p, 0);
	shmctl(id, IPC_RMID, NULL);
	if (p != place->p)
		return -errno;
	*(uint64_t *)p = BAD_WORD;
	return 0;
}

/* Set the number of huge pages; the number that there were, or -errno. */
static long set_huge_pages(long nr)
{
	FILE *f = fopen("/proc/sys/vm/nr_hugepages", "r+");
	long was;

	if (!f)
		return -errno;
	if (fscanf(f, "%ld", &was) != 1)
		was = -EIO;
	rewind(f);
	if (was >= 0)
		fprintf(f, "%ld", nr < 0 ? was + 1 : nr);
	return fclose(f) ? -errno : was;
}

static int make_huge(struct place *place, int flags)
{
	long was = set_huge_pages(-1);

	if (was >= 0)
		place->huge_pages = was + 1;
	place->size = thp_size() ?: 2UL << 20;
	place->after = map_good_page(place->p + place->size);
	if (map_other(place, PROT_READ | PROT_WRITE,
		      flags | MAP_ANONYMOUS | MAP_HUGETLB, -1))
		place->skip = "no huge page is to be had";
	return 0;
}

static int make_hugetlb_private(struct place *place, struct answers *answers)
{
	return make_huge(place, MAP_PRIVATE);
}

static int make_hugetlb_shared(struct place *place, struct answers *answers)
{
	return make_huge(place, MAP_SHARED);
}

/* Does the VMA at @p have this flag, in the letters of smaps? */
static bool has_vma_flag(const void *p, const char *flag)
{
	unsigned long start, end;
	char line[512], *found = NULL;
	bool here = false;
	FILE *f = fopen("/proc/self/smaps", "r");

	while (f && !found && fgets(line, sizeof(line), f)) {
		if (sscanf(line, "%lx-%lx ", &start, &end) == 2)
			here = start <= (uintptr_t)p && (uintptr_t)p < end;
		else if (here && !strncmp(line, "VmFlags:", 8))
			found = strstr(line, flag);
		else
			continue;
	}
	if (f)
		fclose(f);
	return found;
}

/*
 * A ring buffer of perf is mapped by page frame number on some kernels, and
 * page by page on others; smaps tells.
 */
static int make_perf_buffer(struct place *place, struct answers *answers)
{
	struct perf_event_attr attr = {
		.type = PERF_TYPE_SOFTWARE,
		.size = sizeof(attr),
		.config = PERF_COUNT_SW_DUMMY,
	};

	place->fd = syscall(SYS_perf_event_open, &attr, 0, -1, -1, 0);
	if (place->fd < 0) {
		place->skip = "no perf events";
		return 0;
	}
	if (map_at(place->p, place->size, PROT_READ | PROT_WRITE, MAP_SHARED,
		   place->fd) == MAP_FAILED)
		return -errno;
	/* Have it faulted in, where it has to be. */
	READ_MEM((uint64_t *)place->p);
	if (!has_vma_flag(place->p, " pf"))
		*answers = (struct answers) { -EOPNOTSUPP, 0, 0 };
	return 0;
}

/* The kernel maps these two into every process, at its own choice. */
static int find_special(struct place *place, char *p)
{
	place->before = NULL;
	place->after = NULL;
	place->p = p;
	return 0;
}

static int make_vdso(struct place *place, struct answers *answers)
{
	char *vdso = (char *)getauxval(AT_SYSINFO_EHDR);

	if (!vdso)
		place->skip = "no vdso";
	return find_special(place, vdso);
}

static int make_vvar(struct place *place, struct answers *answers)
{
	char line[512];
	unsigned long start = 0;
	FILE *f = fopen("/proc/self/maps", "r");

	while (f && !start && fgets(line, sizeof(line), f))
		if (strstr(line, "[vvar]"))
			start = strtoul(line, NULL, 16);
	if (f)
		fclose(f);
	if (!start)
		place->skip = "no [vvar]";
	return find_special(place, (char *)start);
}

static int make_guard(struct place *place, struct answers *answers)
{
	int ret = map_ordinary(place);

	if (!ret && madvise(place->p, place->size, MADV_GUARD_INSTALL))
		place->skip = "no guard regions";
	return ret;
}

/*
 * Between a stack that grows down and what is mapped below it. So far away
 * that new kernels do not remark that GUP lets stacks grow no more.
 */
static int make_stack_gap(struct place *place, struct answers *answers)
{
	size_t gap = STACK_GAP * page_size();
	uint64_t *stack = map_at(place->p + gap, page_size(),
				 PROT_READ | PROT_WRITE,
				 MAP_PRIVATE | MAP_ANONYMOUS | MAP_GROWSDOWN,
				 -1);

	if (stack == MAP_FAILED)
		return -errno;
	*stack = BAD_WORD;
	place->after = NULL;
	return munmap(place->p, gap);
}

static void on_sigbus(int signal)
{
}

static int make_poisoned(struct place *place, struct answers *answers)
{
	/* Who loses a page is told at once; whoever touches it dies. */
	const struct sigaction once = {
		.sa_handler = on_sigbus,
		.sa_flags = SA_RESETHAND,
	};
	int ret = map_ordinary(place);

	sigaction(SIGBUS, &once, NULL);
	place->poisoned = pagemap_of(place->p) & PAGEMAP_PFN;
	/* It must be on a list, or it cannot be isolated. */
	drain_lru_batches();
	if (!ret && madvise(place->p, place->size, MADV_HWPOISON)) {
		place->poisoned = 0;
		place->skip = "cannot poison a page";
	}
	return ret;
}

FIXTURE(refuse) {
	struct dev dev;
	struct place place;
	struct answers answers;
};

FIXTURE_VARIANT(refuse) {
	int (*make)(struct place *place, struct answers *answers);
	struct answers answers;
};

/* In the order acquire, read, write. */
FIXTURE_VARIANT_ADD(refuse, unmapped) {
	.make = make_unmapped,
	.answers = { -EFAULT, -EFAULT, -EFAULT },
};

FIXTURE_VARIANT_ADD(refuse, prot_none) {
	.make = make_prot_none,
	.answers = { -EFAULT, -EFAULT, -EFAULT },
};

FIXTURE_VARIANT_ADD(refuse, read_only) {
	.make = make_read_only,
	.answers = { -EFAULT, 0, -EFAULT },
};

FIXTURE_VARIANT_ADD(refuse, read_only_zero) {
	.make = make_read_only_zero,
	.answers = { -EFAULT, 0, -EFAULT },
};

FIXTURE_VARIANT_ADD(refuse, shared_anon) {
	.make = make_shared_anon,
	.answers = { -EOPNOTSUPP, 0, 0 },
};

FIXTURE_VARIANT_ADD(refuse, memfd) {
	.make = make_memfd,
	.answers = { -EOPNOTSUPP, 0, 0 },
};

FIXTURE_VARIANT_ADD(refuse, private_file) {
	.make = make_private_file,
	.answers = { -EFAULT, 0, -EFAULT },
};

FIXTURE_VARIANT_ADD(refuse, tmpfs_file) {
	.make = make_tmpfs_file,
	.answers = { -EOPNOTSUPP, 0, 0 },
};

FIXTURE_VARIANT_ADD(refuse, sysv_shm) {
	.make = make_sysv_shm,
	.answers = { -EOPNOTSUPP, 0, 0 },
};

FIXTURE_VARIANT_ADD(refuse, hugetlb_private) {
	.make = make_hugetlb_private,
	.answers = { -EOPNOTSUPP, 0, 0 },
};

FIXTURE_VARIANT_ADD(refuse, hugetlb_shared) {
	.make = make_hugetlb_shared,
	.answers = { -EOPNOTSUPP, 0, 0 },
};

FIXTURE_VARIANT_ADD(refuse, perf_buffer) {
	.make = make_perf_buffer,
	.answers = { -EFAULT, -EFAULT, -EFAULT },
};

FIXTURE_VARIANT_ADD(refuse, vdso) {
	.make = make_vdso,
	.answers = { -EFAULT, 0, -EFAULT },
};

FIXTURE_VARIANT_ADD(refuse, vvar) {
	.make = make_vvar,
	.answers = { -EFAULT, -EFAULT, -EFAULT },
};

FIXTURE_VARIANT_ADD(refuse, guard) {
	.make = make_guard,
	.answers = { -EFAULT, -EFAULT, -EFAULT },
};

FIXTURE_VARIANT_ADD(refuse, stack_gap) {
	.make = make_stack_gap,
	.answers = { -EFAULT, -EFAULT, -EFAULT },
};

FIXTURE_VARIANT_ADD(refuse, poisoned) {
	.make = make_poisoned,
	.answers = { -EHWPOISON, -EFAULT, -EFAULT },
};

/* Reserve addresses, with good pages around a hole at a huge page's address. */
static int place_init(struct place *place)
{
	size_t huge = thp_size() ?: 2UL << 20;

	memset(place, 0, sizeof(*place));
	place->fd = -1;
	place->size = page_size();
	place->space = mmap(NULL, SPACE, PROT_NONE,
			    MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (place->space == MAP_FAILED)
		return -errno;
	place->p = (char *)(((uintptr_t)place->space + 2 * huge) & -huge);
	place->before = map_good_page(place->p - page_size());
	place->after = map_good_page(place->p + page_size());
	return place->before && place->after ? 0 : -errno;
}

/* Give the memory back that a poisoned page was, where that is possible. */
static void heal_page(uint64_t pfn)
{
	FILE *f = fopen("/sys/kernel/debug/hwpoison/unpoison-pfn", "w");

	if (f) {
		fprintf(f, "%llu", (unsigned long long)pfn);
		fclose(f);
	}
}

static void place_free(struct place *place)
{
	munmap(place->space, SPACE);
	if (place->fd >= 0)
		close(place->fd);
	if (place->poisoned)
		heal_page(place->poisoned);
	if (place->huge_pages)
		set_huge_pages(place->huge_pages - 1);
}

/* Mirror the place and its neighbours. */
static int mirror_place(struct dev *dev, const struct place *place)
{
	char *first = place->before ?: place->p;
	char *end = place->p + place->size;

	if (place->after)
		end = place->after + page_size();
	return dev_mirror(dev, first, end - first);
}

FIXTURE_SETUP(refuse)
{
	setup_device(_metadata, &self->dev, 0);
	self->answers = variant->answers;
	ASSERT_EQ(0, place_init(&self->place));
	ASSERT_EQ(0, variant->make(&self->place, &self->answers));
	if (self->place.skip) {
		place_free(&self->place);
		SKIP_SETUP("%s", self->place.skip);
	}
	ASSERT_EQ(0, mirror_place(&self->dev, &self->place));
}

FIXTURE_TEARDOWN(refuse)
{
	dev_close(&self->dev);
	place_free(&self->place);
}

/**
 * struct state - all that can be seen of the memory
 * @pagemap: its entry
 * @mapcount: mappings of its page, or -errno
 * @refcount: references of its folio, if the device can read it
 * @word: its first word, or -errno
 * @rss: of all the memory around, kB
 * @access: what the device may do
 */
struct state {
	uint64_t pagemap;
	int64_t mapcount;
	int64_t refcount;
	uint64_t word;
	int64_t rss;
	uint64_t access;
};

/* Whatever the protection is: not through our own mapping. */
static uint64_t peek_word(const char *p)
{
	int fd = open("/proc/self/mem", O_RDONLY | O_CLOEXEC);
	uint64_t word;

	if (pread(fd, &word, sizeof(word), (uintptr_t)p) != sizeof(word))
		word = -errno;
	close(fd);
	return word;
}

static void look(struct dev *dev, const struct place *place,
		 struct state *state)
{
	const struct mem space = { .p = place->space, .size = SPACE };
	struct devexcl_page info = {};
	uint64_t word;

	memset(state, 0, sizeof(*state));
	dev_query(dev, place->p, 1, &info);
	state->access = info.access;
	state->word = peek_word(place->p);
	if (!dev_read_word(dev, (uint64_t *)place->p, &word)) {
		/* Whoever reads a page has it put into a batch. */
		drain_lru_batches();
		dev_query(dev, place->p, 1, &info);
		state->refcount = info.refcount;
		dev_release(dev, place->p, 1);
	}
	state->pagemap = pagemap_of(place->p);
	state->mapcount = mapcount_of(place->p);
	state->rss = smaps_kb(&space, "Rss");
}

/* Nothing at the place is held, or other than it was. */
static const char *check_unchanged(struct dev *dev, const struct place *place,
				   const struct state *before)
{
	struct state after;

	look(dev, place, &after);
	if (after.access)
		return "the device has mapped what it was refused";
	if (after.pagemap != before->pagemap)
		return "the page table entry is another one";
	if (after.word != before->word)
		return "the data is not what it was";
	if (after.mapcount != before->mapcount)
		return "the number of mappings is another one";
	if (after.refcount != before->refcount)
		return "the number of references is another one";
	return after.rss == before->rss ? NULL : "Rss is another one";
}

#define expect_unchanged(dev, place, before)				\
	expect_claim(check_unchanged(dev, place, before))

/* The device holds a good neighbour or not, and has not changed it. */
static const char *check_neighbour(struct dev *dev, const char *p, bool held)
{
	struct devexcl_page info;

	if (!p)
		return NULL;	/* nobody can map anything there */
	if (dev_query(dev, p, 1, &info))
		return "cannot query the neighbour";
	if (held != !!(info.access & DEVEXCL_ACCESS_EXCLUSIVE))
		return held ? "the neighbour is not held" :
			      "the neighbour is held";
	if (held != (entry_of(p) == ENTRY_EXCLUSIVE))
		return "the neighbour's entry is wrong";
	return *(uint64_t *)p == GOOD_WORD ? NULL :
	       "the neighbour's data is wrong";
}

TEST_F(refuse, acquire)
{
	struct state before;

	look(&self->dev, &self->place, &before);
	EXPECT_EQ(self->answers.acquire,
		  dev_acquire(&self->dev, self->place.p, 1));
	EXPECT_EQ(self->answers.acquire,
		  dev_acquire(&self->dev, self->place.p,
			      self->place.size / page_size()));
	expect_unchanged(&self->dev, &self->place, &before);
}

/* The call ends before it; the next one, which begins with it, fails. */
TEST_F(refuse, acquire_up_to)
{
	struct place *place = &self->place;
	char *first = place->before ?: place->p;
	size_t good = place->before ? 1 : 0;
	struct state before;

	look(&self->dev, place, &before);
	EXPECT_EQ(good ? 1 : self->answers.acquire,
		  dev_acquire(&self->dev, first, good + 1));
	EXPECT_EQ(self->answers.acquire,
		  dev_acquire(&self->dev, first + good * page_size(), 1));
	expect_claim(check_neighbour(&self->dev, place->before, true));
	expect_unchanged(&self->dev, place, &before);
}

/* With a status for each page, those behind it are acquired as well. */
TEST_F(refuse, acquire_around)
{
	struct place *place = &self->place;
	char *first = place->before ?: place->p;
	char *end = place->after ?: place->p + place->size;
	size_t bad = (place->p - first) / page_size();
	size_t behind = (end - first) / page_size(), i;
	size_t nr = behind + (place->after ? 1 : 0);
	static int32_t status[2 + MAX_HUGE_PAGES];
	struct state before;

	ASSERT_GE(ARRAY_SIZE(status), nr);
	look(&self->dev, place, &before);
	memset(status, 0x5a, sizeof(status));
	EXPECT_EQ(nr - (behind - bad),
		  dev_acquire_status(&self->dev, first, nr, status));
	for (i = 0; i < nr; i++)
		ASSERT_EQ(i >= bad && i < behind ? self->answers.acquire : 0,
			  status[i]);
	expect_claim(check_neighbour(&self->dev, place->before, true));
	expect_claim(check_neighbour(&self->dev, place->after, true));
	expect_unchanged(&self->dev, place, &before);
}

TEST_F(refuse, atomic)
{
	struct devexcl_atomic_op op = {
		.addr = (uintptr_t)self->place.p,
		.operand = 1,
		.width = 8,
	};
	struct state before;

	look(&self->dev, &self->place, &before);
	EXPECT_EQ(-EACCES, dev_atomic(&self->dev, &op, 1, 0, 0));
	EXPECT_EQ(-EACCES, op.error);
	EXPECT_EQ(self->answers.acquire,
		  dev_atomic(&self->dev, &op, 1, DEVEXCL_ATOMIC_ACQUIRE, 0));
	EXPECT_EQ(self->answers.acquire, op.error);
	expect_unchanged(&self->dev, &self->place, &before);
}

/* To read or to write, the device need not be alone. */
TEST_F(refuse, copy)
{
	uint64_t *p = (uint64_t *)self->place.p, word = BAD_WORD;
	struct state before;

	look(&self->dev, &self->place, &before);
	EXPECT_EQ(self->answers.read, dev_read_word(&self->dev, p, &word));
	if (!self->answers.read)
		EXPECT_EQ(before.word, word);
	EXPECT_EQ(self->answers.write, dev_write_word(&self->dev, p, word));
	dev_release(&self->dev, p, 1);
	expect_unchanged(&self->dev, &self->place, &before);
}

/* What a copy says of which the first @good bytes of 16 are possible. */
static long copied(int answer, size_t good)
{
	if (!answer)
		return 16;
	return good ? (long)good : answer;
}

/* A copy ends where the good memory does. */
TEST_F(refuse, copy_up_to)
{
	size_t good = self->place.before ? 8 : 0;
	char buf[16], *p = self->place.p - good;
	struct state before;

	look(&self->dev, &self->place, &before);
	EXPECT_EQ(copied(self->answers.read, good),
		  dev_copy(&self->dev, p, buf, 16, 0));
	EXPECT_EQ(copied(self->answers.write, good),
		  dev_copy(&self->dev, p, buf, 16, DEVEXCL_COPY_WRITE));
	dev_release(&self->dev, self->place.p, 1);
	expect_unchanged(&self->dev, &self->place, &before);
}

/*
 * What looks like one of those, and is not
 */

FIXTURE(refuse_not) {
	struct dev dev;
	struct place place;
};

FIXTURE_SETUP(refuse_not)
{
	setup_device(_metadata, &self->dev, 0);
	ASSERT_EQ(0, place_init(&self->place));
	ASSERT_EQ(0, map_ordinary(&self->place));
	ASSERT_EQ(0, mirror_place(&self->dev, &self->place));
}

FIXTURE_TEARDOWN(refuse_not)
{
	dev_close(&self->dev);
	place_free(&self->place);
}

/* The device gets the page, adds to it, and loses it to the CPU again. */
static const char *check_usable(struct dev *dev, const struct place *place,
				uint64_t was)
{
	uint64_t *word = (uint64_t *)place->p;

	if (dev_acquire_one(dev, word))
		return "cannot be acquired";
	if (entry_of(word) != ENTRY_EXCLUSIVE)
		return "acquired, and the entry is not exclusive";
	if (dev_add(dev, word, 1, NULL))
		return "cannot be added to";
	if (peek_word(place->p) != was + 1)
		return "the sum is wrong";
	if (entry_of(word) != ENTRY_PRESENT || mapcount_of(word) != 1)
		return "taken back, and not an ordinary page";
	return NULL;
}

#define expect_usable(self, was)					\
	expect_claim(check_usable(&(self)->dev, &(self)->place, was))

/* Asking for a private page of a file to write is what makes it anonymous. */
TEST_F(refuse_not, private_file)
{
	struct place *place = &self->place;
	uint64_t word;

	ASSERT_EQ(0, open_memfd(place, 0));
	ASSERT_NE(MAP_FAILED, map_at(place->p, place->size,
				     PROT_READ | PROT_WRITE, MAP_PRIVATE,
				     place->fd));
	EXPECT_EQ(BAD_WORD, READ_MEM((uint64_t *)place->p));
	EXPECT_TRUE(pagemap_of(place->p) & PAGEMAP_FILE);
	expect_usable(self, BAD_WORD);
	EXPECT_FALSE(pagemap_of(place->p) & PAGEMAP_FILE);

	/* The file's page is not the one that was added to. */
	ASSERT_EQ(sizeof(word), pread(place->fd, &word, sizeof(word), 0));
	EXPECT_EQ(BAD_WORD, word);
}

/* Likewise for the page of zeroes that everybody reads. */
TEST_F(refuse_not, zero_page)
{
	ASSERT_EQ(0, madvise(self->place.p, page_size(), MADV_DONTNEED));
	EXPECT_EQ(0, READ_MEM((uint64_t *)self->place.p));
	expect_usable(self, 0);
}

TEST_F(refuse_not, never_touched)
{
	ASSERT_EQ(0, madvise(self->place.p, page_size(), MADV_DONTNEED));
	expect_usable(self, 0);
}

/* It was read-only, and is not any more. */
TEST_F(refuse_not, writable_again)
{
	ASSERT_EQ(0, mprotect(self->place.p, page_size(), PROT_READ));
	EXPECT_EQ(-EFAULT, dev_acquire(&self->dev, self->place.p, 1));
	ASSERT_EQ(0, mprotect(self->place.p, page_size(),
			      PROT_READ | PROT_WRITE));
	expect_usable(self, BAD_WORD);
}

/*
 * Protection keys are of the thread that touches the memory. The device is
 * nobody's thread, as any other remote access.
 */
TEST_F(refuse_not, protection_key)
{
	char *p = self->place.p;
	int key = syscall(SYS_pkey_alloc, 0, 1 /* no access */);

	if (key < 0)
		SKIP(return, "no protection keys");
	ASSERT_EQ(0, syscall(SYS_pkey_mprotect, p, page_size(),
			     PROT_READ | PROT_WRITE, key));
	expect_usable(self, BAD_WORD);

	/* And the CPU is refused as before; here, the kernel on its behalf. */
	EXPECT_EQ(-1, syscall(SYS_pipe, p));
	EXPECT_EQ(EFAULT, errno);
}

/*
 * Fill the place, which asked for a huge page, until it has one. Memory that
 * is in pieces may have to be compacted first.
 */
static bool fill_thp(const struct place *place)
{
	const struct mem mem = { .p = place->p, .size = place->size };
	int tries;
	size_t i;

	for (tries = 0; tries < 10; tries++) {
		for (i = 0; i < place->size; i += page_size())
			*(uint64_t *)(place->p + i) = BAD_WORD;
		if (smaps_kb(&mem, "AnonHugePages") > 0)
			return true;
		madvise(place->p, place->size, MADV_DONTNEED);
		defragment_memory();
	}
	return false;
}

/* A huge page at the place; NULL, or why there is none. */
static const char *make_thp(struct dev *dev, struct place *place)
{
	place->size = thp_size();
	if (!place->size)
		return "no transparent huge pages";
	if (map_at(place->p, place->size, PROT_READ | PROT_WRITE,
		   MAP_PRIVATE | MAP_ANONYMOUS, -1) == MAP_FAILED ||
	    madvise(place->p, place->size, MADV_HUGEPAGE))
		return "cannot ask for a transparent huge page";
	if (!fill_thp(place))
		return "no huge page was to be had";
	/* khugepaged would take exclusive pages for what is in swap. */
	if (madvise(place->p, place->size, MADV_NOHUGEPAGE))
		return "cannot keep khugepaged away";
	dev_unmirror(dev, place->before, 3 * page_size());
	return dev_mirror(dev, place->p, place->size) ?
	       "cannot mirror a huge page" : NULL;
}

static const char *check_thp_page(struct dev *dev, const struct place *place,
				  size_t page)
{
	char *p = place->p + page * page_size();
	struct devexcl_page info;

	if (dev_acquire_one(dev, p) || dev_query(dev, p, 1, &info))
		return "a page of a huge page cannot be acquired";
	if (!info.order)
		return "this is no page of a huge page";
	if (entry_of(p) != ENTRY_EXCLUSIVE)
		return "acquired, and the entry is not exclusive";
	return *(uint64_t *)p == BAD_WORD ? NULL : "the data is wrong";
}

TEST_F(refuse_not, thp_head)
{
	const char *skip = make_thp(&self->dev, &self->place);

	if (skip)
		SKIP(return, "%s", skip);
	expect_claim(check_thp_page(&self->dev, &self->place, 0));
}

/* Other pages of a large folio, where the kernel can do that. */
TEST_F(refuse_not, thp_tail)
{
	const char *skip = make_thp(&self->dev, &self->place);
	size_t page, last = self->place.size / page_size() - 1;

	if (skip)
		SKIP(return, "%s", skip);
	for (page = last; page; page /= 2) {
		char *p = self->place.p + page * page_size();

		if (self->dev.info.caps & DEVEXCL_CAP_LARGE_FOLIO) {
			expect_claim(check_thp_page(&self->dev, &self->place,
						    page));
			continue;
		}
		EXPECT_EQ(-EOPNOTSUPP, dev_acquire(&self->dev, p, 1));
		EXPECT_EQ(ENTRY_PRESENT, entry_of(p));
		EXPECT_EQ(BAD_WORD, *(uint64_t *)p);
	}
}

/*
 * userfaultfd: the device waits as any other who touches the memory would
 */

/* Have faults at the place reported. NULL, or why that is not possible. */
static const char *register_uffd(struct place *place, uint64_t mode)
{
	struct uffdio_api api = { .api = UFFD_API };
	struct uffdio_register range = {
		.range = { (uintptr_t)place->p, place->size },
		.mode = mode,
	};

	place->fd = syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);
	if (place->fd < 0 || ioctl(place->fd, UFFDIO_API, &api))
		return "no userfaultfd";
	if (ioctl(place->fd, UFFDIO_REGISTER, &range))
		return "userfaultfd does not know this mode";
	return NULL;
}

/* Wait for one fault; its address, or 0. */
static uint64_t wait_fault(int fd)
{
	struct pollfd pollfd = { .fd = fd, .events = POLLIN };
	struct uffd_msg msg = {};

	if (poll(&pollfd, 1, -1) != 1 || read(fd, &msg, sizeof(msg)) < 0)
		return 0;
	return msg.arg.pagefault.address & -page_size();
}

static void *fill_missing(void *data)
{
	struct place *place = data;
	struct uffdio_copy copy = {
		.dst = wait_fault(place->fd),
		.src = (uintptr_t)place->before,
		.len = page_size(),
	};

	ioctl(place->fd, UFFDIO_COPY, &copy);
	return NULL;
}

TEST_F(refuse_not, uffd_missing)
{
	struct place *place = &self->place;
	const char *skip = register_uffd(place, UFFDIO_REGISTER_MODE_MISSING);
	pthread_t thread;

	if (skip)
		SKIP(return, "%s", skip);
	ASSERT_EQ(0, madvise(place->p, page_size(), MADV_DONTNEED));
	ASSERT_EQ(0, pthread_create(&thread, NULL, fill_missing, place));
	expect_usable(self, GOOD_WORD);
	ASSERT_EQ(0, pthread_join(thread, NULL));
}

static int write_protect(struct place *place, uint64_t mode)
{
	struct uffdio_writeprotect protect = {
		.range = { (uintptr_t)place->p, place->size },
		.mode = mode,
	};

	return ioctl(place->fd, UFFDIO_WRITEPROTECT, &protect);
}

static void *allow_writing(void *data)
{
	struct place *place = data;

	if (wait_fault(place->fd) == (uintptr_t)place->p)
		write_protect(place, 0);
	return NULL;
}

/* To be exclusive is to write. */
TEST_F(refuse_not, uffd_write_protected)
{
	struct place *place = &self->place;
	const char *skip = register_uffd(place, UFFDIO_REGISTER_MODE_WP);
	pthread_t thread;

	if (skip)
		SKIP(return, "%s", skip);
	ASSERT_EQ(0, write_protect(place, UFFDIO_WRITEPROTECT_MODE_WP));
	ASSERT_TRUE(pagemap_of(place->p) & PAGEMAP_UFFD_WP);
	ASSERT_EQ(0, pthread_create(&thread, NULL, allow_writing, place));
	expect_usable(self, BAD_WORD);
	ASSERT_EQ(0, pthread_join(thread, NULL));
	EXPECT_FALSE(pagemap_of(place->p) & PAGEMAP_UFFD_WP);
}

static void *kill_waiting(void *data)
{
	struct place *place = data;

	if (wait_fault(place->fd) == (uintptr_t)place->p)
		kill(getpid(), SIGKILL);
	return NULL;
}

/* Nobody answers: to wait is right, but not for one who is killed. */
TEST_F(refuse_not, uffd_killed)
{
	struct place *place = &self->place;
	pthread_t thread;
	struct dev dev;
	pid_t pid;

	pid = fork();
	ASSERT_LE(0, pid);
	if (!pid) {
		if (register_uffd(place, UFFDIO_REGISTER_MODE_MISSING))
			_exit(KSFT_SKIP);
		if (dev_open(&dev, 0) || mirror_place(&dev, place) ||
		    madvise(place->p, page_size(), MADV_DONTNEED) ||
		    pthread_create(&thread, NULL, kill_waiting, place))
			_exit(1);
		dev_acquire(&dev, place->p, 1);
		_exit(2);
	}
	switch (wait_child(pid)) {
	case KSFT_SKIP:
		SKIP(return, "no userfaultfd");
	case -SIGKILL:
		break;
	default:
		EXPECT_TRUE(false)
			TH_LOG("the call came back instead of being killed");
	}
	expect_usable(self, BAD_WORD);
}

DEVEXCL_TEST_MAIN
