// SPDX-License-Identifier: GPL-2.0
/*
 * Objects that move while they are mapped
 *
 * A graphics driver moves its buffers between memory of the device and of the
 * system. The entries go first, then the contents, and whoever touches a page
 * then finds the new place, cached as that place has to be. Nobody may ever
 * see the old place after the move, whatever else goes on.
 */
#include <pthread.h>
#include <sched.h>

#include "devexcl_aperture_test.h"

#define PAGES	4
#define ROUNDS	40	/* of moving an object, while others race with that */
#define MET	8	/* rounds of the others at least */

FIXTURE(move) {
	struct aperture ap;
	struct object obj;
	struct mem mem;
};

/* How the object is mapped */
FIXTURE_VARIANT(move) {
	enum devexcl_vma vma;
	enum devexcl_insert insert;
};

FIXTURE_VARIANT_ADD(move, pfn) {
	.vma = DEVEXCL_VMA_PFN,
	.insert = DEVEXCL_INSERT_PFN,
};

FIXTURE_VARIANT_ADD(move, pfn_prot) {
	.vma = DEVEXCL_VMA_PFN,
	.insert = DEVEXCL_INSERT_PFN_PROT,
};

FIXTURE_VARIANT_ADD(move, mixed) {
	.vma = DEVEXCL_VMA_MIXED,
	.insert = DEVEXCL_INSERT_MIXED,
};

FIXTURE_VARIANT_ADD(move, mixed_prot) {
	.vma = DEVEXCL_VMA_MIXED,
	.insert = DEVEXCL_INSERT_MIXED_PROT,
};

FIXTURE_SETUP(move)
{
	const struct devexcl_aperture_create like = {
		.pages = PAGES,
		.vma = variant->vma,
	};

	setup_aperture(_metadata, &self->ap);
	if (!aperture_can_insert(&self->ap, variant->insert))
		SKIP_SETUP("this kernel has no such function");
	ASSERT_EQ(0, object_create(&self->ap, &self->obj, &like));
	ASSERT_EQ(0, object_policy(&self->obj, 0, PAGES, variant->insert, 0));
	ASSERT_EQ(0, object_map(&self->obj, &self->mem, PROT_READ | PROT_WRITE,
				MAP_SHARED));
}

FIXTURE_TEARDOWN(move)
{
	mem_unmap(&self->mem);
	aperture_close(&self->ap);
}

/**
 * struct place - a placement and how it is cached
 */
struct place {
	enum devexcl_placement placement;
	enum devexcl_caching caching;
};

/* One after the other: each kind of step is there. */
static const struct place places[] = {
	{ DEVEXCL_PLACE_IO, DEVEXCL_CACHING_WC },
	{ DEVEXCL_PLACE_SYSTEM, DEVEXCL_CACHING_WB },
	{ DEVEXCL_PLACE_BUFFER, DEVEXCL_CACHING_UC },
	{ DEVEXCL_PLACE_IO, DEVEXCL_CACHING_UC },
	{ DEVEXCL_PLACE_IO, DEVEXCL_CACHING_WC },
	{ DEVEXCL_PLACE_SYSTEM, DEVEXCL_CACHING_WC },
	{ DEVEXCL_PLACE_SYSTEM, DEVEXCL_CACHING_UC },
	{ DEVEXCL_PLACE_SYSTEM, DEVEXCL_CACHING_WB },
};

#define for_each_place(place)						\
	for (place = places; place < places + ARRAY_SIZE(places); place++)

static int move_to(FIXTURE_DATA(move) *self, const struct place *place)
{
	return object_move(&self->obj, place->placement, place->caching, 0);
}

/* A page is mapped where the object is now, and cached like that. */
static const char *check_page_place(FIXTURE_DATA(move) *self,
				    const struct place *place, size_t page)
{
	const char *wrong = check_pfn(&self->ap, &self->mem, page,
				      object_page(&self->obj, page).pfn);

	if (!wrong && aperture_can(&self->ap, DEVEXCL_APERTURE_CAP_PAT))
		wrong = check_caching(&self->ap, &self->mem, page,
				      place->caching);
	return wrong;
}

static const char *check_place(FIXTURE_DATA(move) *self,
			       const struct place *place)
{
	const char *wrong = NULL;
	size_t page;

	for (page = 0; !wrong && page < PAGES; page++)
		wrong = check_page_place(self, place, page);
	return wrong;
}

static void expect_nothing_mapped(struct __test_metadata *_metadata,
				  FIXTURE_DATA(move) *self)
{
	size_t page;

	for (page = 0; page < PAGES; page++)
		expect_none(&self->ap, &self->mem, page);
}

/* What was written is there after each move, through new entries. */
TEST_F(move, contents)
{
	const struct place *place;
	uint64_t n = 0;
	size_t page;

	for_each_place(place) {
		for (page = 0; page < PAGES; page++)
			WRITE_MEM(word_of(&self->mem, page), ++n);
		ASSERT_EQ(0, move_to(self, place));
		expect_nothing_mapped(_metadata, self);
		for (page = 0; page < PAGES; page++)
			expect_word(&self->mem, page, n - PAGES + 1 + page);
		expect_claim(check_place(self, place));
		ASSERT_EQ(n, object_load(&self->obj, PAGES - 1));
	}
}

/* If only some pages change, the others stay mapped. */
TEST_F(move, other_pages)
{
	size_t page;

	for (page = 0; page < PAGES; page++)
		WRITE_MEM(word_of(&self->mem, page), 1);
	ASSERT_EQ(0, object_policy(&self->obj, 1, 2, variant->insert, 0));
	expect_kind(&self->ap, &self->mem, 0, PRESENT);
	expect_none(&self->ap, &self->mem, 1);
	expect_none(&self->ap, &self->mem, 2);
	expect_kind(&self->ap, &self->mem, PAGES - 1, PRESENT);
}

/* Entries of other processes go as well. */
TEST_F(move, processes)
{
	const struct place *place;
	struct gate go, done;
	const char *wrong;
	pid_t child;

	ASSERT_EQ(0, gate_init(&go));
	ASSERT_EQ(0, gate_init(&done));
	child = fork();
	ASSERT_GE(child, 0);
	if (!child) {
		for_each_place(place) {
			WRITE_MEM(word_of(&self->mem, 0), 5);
			gate_open(&done);
			gate_wait(&go);
			wrong = check_kind(&self->ap, &self->mem, 0,
					   DEVEXCL_ENTRY_NONE);
			if (READ_MEM(word_of(&self->mem, 0)) != 7)
				wrong = "the child reads something old";
			if (!wrong)
				wrong = check_page_place(self, place, 0);
			if (wrong)
				TH_LOG("child: %s", wrong);
			if (wrong)
				_exit(1);
		}
		_exit(0);
	}
	for_each_place(place) {
		ASSERT_EQ(0, gate_wait(&done));
		expect_word(&self->mem, 0, 5);
		ASSERT_EQ(0, move_to(self, place));
		WRITE_MEM(word_of(&self->mem, 0), 7);
		gate_open(&go);
	}
	ASSERT_EQ(0, wait_child(child));
}

/*
 * Have a process move the object, with a pause, and kill it as soon as the first
 * page is not mapped any more: true if that was before the object had moved.
 */
static bool killed_in_pause(FIXTURE_DATA(move) *self)
{
	pid_t child = fork();
	int status = 0;

	if (!child) {
		object_move(&self->obj, DEVEXCL_PLACE_BUFFER,
			    DEVEXCL_CACHING_WB, 1000);
		_exit(0);
	}
	if (child < 0)
		return false;
	while (check_kind(&self->ap, &self->mem, 0, DEVEXCL_ENTRY_NONE))
		sched_yield();
	kill(child, SIGKILL);
	return waitpid(child, &status, 0) == child && WIFSIGNALED(status);
}

/*
 * Entries go first, before anything is copied: who is killed then has moved
 * nothing. On a machine that is slow beyond measure he may have been quicker.
 */
TEST_F(move, zapped_first)
{
	uint64_t pfn;
	int i;

	for (i = 0; i < 10; i++) {
		WRITE_MEM(word_of(&self->mem, 0), i + 5);
		pfn = object_page(&self->obj, 0).pfn;
		if (killed_in_pause(self))
			break;
	}
	ASSERT_LT(i, 10);
	ASSERT_EQ(pfn, object_page(&self->obj, 0).pfn);
	ASSERT_EQ(i + 5, object_load(&self->obj, 0));
	expect_word(&self->mem, 0, i + 5);
	expect_pfn(&self->ap, &self->mem, 0, pfn);
}

/* Private copies stay, unless they are to go as well. */
TEST_F(move, private_copies)
{
	struct mem copy;

	if (variant->vma == DEVEXCL_VMA_PFN)
		SKIP(return, "PFN maps have private copies of remap_pfn_range() only");
	ASSERT_EQ(0, object_map(&self->obj, &copy, PROT_READ | PROT_WRITE,
				MAP_PRIVATE));
	WRITE_MEM(word_of(&self->mem, 0), 1);
	WRITE_MEM(word_of(&copy, 0), 2);
	expect_word(&copy, 1, 0);
	ASSERT_EQ(0, move_to(self, &places[0]));
	expect_word(&copy, 0, 2);
	expect_none(&self->ap, &copy, 1);
	expect_word(&self->mem, 0, 1);
	ASSERT_EQ(0, object_zap(&self->obj, DEVEXCL_MOVE_COPIES));
	expect_none(&self->ap, &copy, 0);
	expect_word(&copy, 0, 1);
	mem_unmap(&copy);
}

/**
 * struct racer - a thread that does something over and over with an object
 * @obj: the object
 * @mem: where it is mapped
 * @act: what it does; returns what is wrong
 * @stop: when to end
 * @rounds: times that it was done
 * @wrong: what was wrong
 * @thread: the thread
 */
struct racer {
	struct object *obj;
	struct mem *mem;
	const char *(*act)(struct racer *racer);
	bool stop;
	uint64_t rounds;
	const char *wrong;
	pthread_t thread;
};

static void *race(void *arg)
{
	struct racer *racer = arg;

	while (!racer->wrong && !READ_MEM(&racer->stop)) {
		racer->wrong = racer->act(racer);
		racer->rounds++;
	}
	return NULL;
}

/* Move the object around until the racer has had his rounds. */
static const struct place *move_against(struct __test_metadata *_metadata,
					struct racer *racer,
					const struct place *where, size_t nr,
					uint64_t moves)
{
	const struct place *place = where;
	uint64_t round;

	ASSERT_EQ(0, pthread_create(&racer->thread, NULL, race, racer));
	for (round = 0; (round < moves || READ_MEM(&racer->rounds) < MET) &&
	     !READ_MEM(&racer->wrong); round++) {
		place = &where[round % nr];
		EXPECT_EQ(0, object_move(racer->obj, place->placement,
					 place->caching, 0));
	}
	WRITE_MEM(&racer->stop, true);
	pthread_join(racer->thread, NULL);
	ASSERT_EQ(NULL, racer->wrong)
		TH_LOG("%s", racer->wrong);
	return place;
}

/* All of it is where the object was moved in the end. */
static void expect_moved_against(struct __test_metadata *_metadata,
				 FIXTURE_DATA(move) *self,
				 const char *(*act)(struct racer *racer))
{
	struct racer racer = {
		.obj = &self->obj, .mem = &self->mem, .act = act,
	};
	const struct place *place;
	size_t page;

	place = move_against(_metadata, &racer, places, ARRAY_SIZE(places),
			     ROUNDS);
	for (page = 0; page < PAGES; page++)
		READ_MEM(word_of(&self->mem, page));
	expect_claim(check_place(self, place));
}

/* No write is lost: one that went to the old place would be. */
static const char *act_write(struct racer *racer)
{
	uint64_t *word = word_of(racer->mem, racer->rounds % PAGES);
	uint64_t want = racer->rounds / PAGES;

	if (READ_MEM(word) != want)
		return "a write is lost";
	WRITE_MEM(word, want + 1);
	return NULL;
}

TEST_F(move, against_writes)
{
	expect_moved_against(_metadata, self, act_write);
}

static const char *act_fork(struct racer *racer)
{
	uint64_t *word = word_of(racer->mem, 1) + 1;
	const char *wrong = act_write(racer);
	pid_t child = fork();

	if (!child) {
		WRITE_MEM(word, racer->rounds);
		_exit(READ_MEM(word) != racer->rounds);
	}
	return wait_child(child) ? "the child reads something old" : wrong;
}

TEST_F(move, against_fork)
{
	expect_moved_against(_metadata, self, act_fork);
}

static const char *act_mprotect(struct racer *racer)
{
	mprotect(racer->mem->p, racer->mem->size, PROT_READ);
	mprotect(racer->mem->p, racer->mem->size, PROT_NONE);
	mprotect(racer->mem->p, racer->mem->size, PROT_READ | PROT_WRITE);
	return act_write(racer);
}

TEST_F(move, against_mprotect)
{
	expect_moved_against(_metadata, self, act_mprotect);
}

static const char *act_munmap(struct racer *racer)
{
	struct mem mem;

	if (object_map(racer->obj, &mem, PROT_READ | PROT_WRITE, MAP_SHARED))
		return "mmap() fails";
	READ_MEM(word_of(&mem, racer->rounds % PAGES));
	WRITE_MEM(word_of(&mem, 0) + 1, racer->rounds);
	munmap(page_of(&mem, 1), page_size());
	if (READ_MEM(word_of(&mem, 0) + 1) != racer->rounds)
		return "a write is lost";
	munmap(mem.p, mem.size);
	return act_write(racer);
}

TEST_F(move, against_munmap)
{
	expect_moved_against(_metadata, self, act_munmap);
}

/* A driver that forgets the entries would be noticed. */
TEST_F(move, notices_stale_entries)
{
	WRITE_MEM(word_of(&self->mem, 0), 1);
	ASSERT_EQ(0, object_inject(&self->obj, DEVEXCL_APERTURE_BROKEN_NO_ZAP,
				   0));
	ASSERT_EQ(0, move_to(self, &places[0]));
	ASSERT_NE(NULL, check_kind(&self->ap, &self->mem, 0,
				   DEVEXCL_ENTRY_NONE));
	ASSERT_NE(NULL, check_place(self, &places[0]));
	WRITE_MEM(word_of(&self->mem, 0), 2);
	ASSERT_EQ(1, object_load(&self->obj, 0));
	ASSERT_EQ(-EBUSY, move_to(self, &places[1]));
}

/* And one that forgets the caching mode. */
TEST_F(move, notices_wrong_caching)
{
	size_t page;

	if (!aperture_can(&self->ap, DEVEXCL_APERTURE_CAP_PAT))
		SKIP(return, "the CPU's caching modes cannot be chosen");
	ASSERT_EQ(0, object_inject(&self->obj, DEVEXCL_APERTURE_BROKEN_WB, 0));
	ASSERT_EQ(0, object_move(&self->obj, DEVEXCL_PLACE_BUFFER,
				 DEVEXCL_CACHING_WC, 0));
	for (page = 0; page < PAGES; page++)
		READ_MEM(word_of(&self->mem, page));
	ASSERT_NE(NULL, check_place(self, &places[0]));
}

/* Pages that are counted: when they go, they must not be anybody's any more. */

FIXTURE(counted) {
	struct aperture ap;
	struct object obj;
	struct mem mem;
};

FIXTURE_VARIANT(counted) {
	enum devexcl_insert insert;
	uint32_t batch;
};

FIXTURE_VARIANT_ADD(counted, page) {
	.insert = DEVEXCL_INSERT_PAGE,
};

FIXTURE_VARIANT_ADD(counted, pages) {
	.insert = DEVEXCL_INSERT_PAGES, .batch = PAGES,
};

FIXTURE_SETUP(counted)
{
	const struct devexcl_aperture_create like = {
		.pages = PAGES,
		.vma = DEVEXCL_VMA_MIXED,
		.batch = variant->batch,
	};

	setup_aperture(_metadata, &self->ap);
	ASSERT_EQ(0, object_create(&self->ap, &self->obj, &like));
	ASSERT_EQ(0, object_policy(&self->obj, 0, PAGES, variant->insert, 0));
	ASSERT_EQ(0, object_map(&self->obj, &self->mem, PROT_READ | PROT_WRITE,
				MAP_SHARED));
}

FIXTURE_TEARDOWN(counted)
{
	mem_unmap(&self->mem);
	aperture_close(&self->ap);
}

static void expect_mappings(struct __test_metadata *_metadata,
			    FIXTURE_DATA(counted) *self, int mappings)
{
	size_t page;

	for (page = 0; page < PAGES; page++) {
		ASSERT_EQ(1 + mappings, object_page(&self->obj, page).refcount);
		ASSERT_EQ(mappings, object_page(&self->obj, page).mapcount);
	}
}

TEST_F(counted, moved)
{
	static const enum devexcl_placement there[] = {
		DEVEXCL_PLACE_BUFFER, DEVEXCL_PLACE_SYSTEM,
		DEVEXCL_PLACE_SYSTEM, DEVEXCL_PLACE_BUFFER,
	};
	struct mem again;
	size_t page, i;

	ASSERT_EQ(0, object_map(&self->obj, &again, PROT_READ | PROT_WRITE,
				MAP_SHARED));
	for (i = 0; i < ARRAY_SIZE(there); i++) {
		for (page = 0; page < PAGES; page++) {
			WRITE_MEM(word_of(&self->mem, page), i + page);
			READ_MEM(word_of(&again, page));
		}
		expect_mappings(_metadata, self, 2);
		ASSERT_EQ(0, object_move(&self->obj, there[i],
					 DEVEXCL_CACHING_WB, 0));
		expect_mappings(_metadata, self, 0);
		for (page = 0; page < PAGES; page++) {
			expect_none(&self->ap, &self->mem, page);
			expect_none(&self->ap, &again, page);
		}
		for (page = 0; page < PAGES; page++)
			expect_word(&again, page, i + page);
		expect_mappings(_metadata, self, 1);
	}
	mem_unmap(&again);
	expect_mappings(_metadata, self, 0);
}

/* Huge entries */

FIXTURE(huge) {
	struct aperture ap;
	struct object obj;
	struct mem mem;
};

FIXTURE_SETUP(huge)
{
	setup_aperture(_metadata, &self->ap);
}

FIXTURE_TEARDOWN(huge)
{
	mem_unmap(&self->mem);
	aperture_close(&self->ap);
}

/*
 * An object like @like, but of one huge page, mapped so that one huge entry fits.
 */
static int map_huge(FIXTURE_DATA(huge) *self, enum devexcl_insert insert,
		    struct devexcl_aperture_create like)
{
	size_t size = self->ap.info.pmd_pages * page_size();
	uintptr_t p;
	int ret;

	like.pages = self->ap.info.pmd_pages;
	ret = object_create(&self->ap, &self->obj, &like);
	if (!ret)
		ret = object_policy(&self->obj, 0, like.pages, insert, 0);
	if (ret)
		return ret;
	p = (uintptr_t)mmap(NULL, 2 * size, PROT_NONE,
			    MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	p = (p + size - 1) & -size;
	self->mem = (struct mem) {
		.p = mmap((void *)p, size, PROT_READ | PROT_WRITE,
			  MAP_SHARED | MAP_FIXED, self->ap.fd,
			  self->obj.offset),
		.pages = like.pages,
		.size = size,
	};
	if (self->mem.p == MAP_FAILED)
		return -errno;
	return madvise(self->mem.p, size, MADV_HUGEPAGE) ? -errno : 0;
}

/* They can be asked for, or there are none. */
static bool huge_pages_are_on(void)
{
	FILE *f = fopen("/sys/kernel/mm/transparent_hugepage/enabled", "r");
	char line[64] = "";

	if (!f)
		return false;
	if (!fgets(line, sizeof(line), f))
		line[0] = 0;
	fclose(f);
	return line[0] && !strstr(line, "[never]");
}

/* Memory of the device that is cached like this, by page frame number */
static int map_huge_pfn(FIXTURE_DATA(huge) *self, enum devexcl_caching caching,
			uint32_t create_flags)
{
	const struct devexcl_aperture_create like = {
		.flags = create_flags,
		.placement = DEVEXCL_PLACE_BUFFER,
		.caching = caching,
		.vma = DEVEXCL_VMA_PFN,
	};

	if (!aperture_can_insert(&self->ap, DEVEXCL_INSERT_PFN_PMD))
		return -EOPNOTSUPP;
	return map_huge(self, DEVEXCL_INSERT_PFN_PMD, like);
}

static int map_huge_folio(FIXTURE_DATA(huge) *self, uint32_t create_flags)
{
	const struct devexcl_aperture_create like = {
		.flags = create_flags,
		.placement = DEVEXCL_PLACE_FOLIO,
		.vma = DEVEXCL_VMA_MIXED,
	};

	if (!aperture_can_insert(&self->ap, DEVEXCL_INSERT_FOLIO_PMD))
		return -EOPNOTSUPP;
	return map_huge(self, DEVEXCL_INSERT_FOLIO_PMD, like);
}

/*
 * Touch the first page of what was mapped, with this result: all of it is there
 * then. Or what the kernel lacks for that.
 */
static const char *touch_huge(struct __test_metadata *_metadata,
			      FIXTURE_DATA(huge) *self, int ret)
{
	if (ret == -EOPNOTSUPP)
		return "this kernel has no such huge entries";
	if (!huge_pages_are_on())
		return "huge pages are switched off";
	ASSERT_EQ(0, ret);
	READ_MEM(word_of(&self->mem, 0));
	expect_kind(&self->ap, &self->mem, self->mem.pages - 1, HUGE);
	return NULL;
}

/* Claims about caching hold where it can be chosen. */
static void expect_huge(struct __test_metadata *_metadata,
			FIXTURE_DATA(huge) *self, enum devexcl_caching caching)
{
	expect_kind(&self->ap, &self->mem, 5, HUGE);
	expect_pfn(&self->ap, &self->mem, 5, object_page(&self->obj, 5).pfn);
	expect_flags(&self->ap, &self->mem, 5, DEVEXCL_ENTRY_SPECIAL,
		     DEVEXCL_ENTRY_SPECIAL);
	if (aperture_can(&self->ap, DEVEXCL_APERTURE_CAP_PAT))
		expect_caching(&self->ap, &self->mem, 5, caching);
}

TEST_F(huge, pfn)
{
	const char *lack;

	lack = touch_huge(_metadata, self,
			  map_huge_pfn(self, DEVEXCL_CACHING_WB, 0));
	if (lack)
		SKIP(return, "%s", lack);
	WRITE_MEM(word_of(&self->mem, 0), 3);
	ASSERT_EQ(3, object_load(&self->obj, 0));
	expect_huge(_metadata, self, DEVEXCL_CACHING_WB);
	ASSERT_EQ(1, object_page(&self->obj, 5).refcount);
	ASSERT_EQ(0, object_page(&self->obj, 5).mapcount);

	/* It moves like others, to where caching is different. */
	ASSERT_EQ(0, object_move(&self->obj, DEVEXCL_PLACE_IO,
				 DEVEXCL_CACHING_WC, 0));
	expect_none(&self->ap, &self->mem, 5);
	expect_word(&self->mem, 0, 3);
	expect_huge(_metadata, self, DEVEXCL_CACHING_WC);

	/* Whoever changes a part of it loses all, and gets single pages. */
	ASSERT_EQ(0, mprotect(page_of(&self->mem, 5), page_size(), PROT_READ));
	expect_word(&self->mem, 0, 3);
	expect_kind(&self->ap, &self->mem, 0, PRESENT);
	expect_pfn(&self->ap, &self->mem, 0, object_page(&self->obj, 0).pfn);
}

/* With a hook the first write comes to the driver, and the entry stays huge. */
TEST_F(huge, read_then_written)
{
	const char *lack;

	lack = touch_huge(_metadata, self,
			  map_huge_pfn(self, DEVEXCL_CACHING_WC,
				       DEVEXCL_CREATE_PFN_MKWRITE));
	if (lack)
		SKIP(return, "%s", lack);
	expect_flags(&self->ap, &self->mem, 5, DEVEXCL_ENTRY_WRITE, 0);
	ASSERT_EQ(1, object_page(&self->obj, 0).faults);
	WRITE_MEM(word_of(&self->mem, 0), 3);
	ASSERT_EQ(2, object_page(&self->obj, 0).faults);
	expect_huge(_metadata, self, DEVEXCL_CACHING_WC);
	expect_flags(&self->ap, &self->mem, 5,
		     DEVEXCL_ENTRY_WRITE | DEVEXCL_ENTRY_DIRTY,
		     DEVEXCL_ENTRY_WRITE | DEVEXCL_ENTRY_DIRTY);
	WRITE_MEM(word_of(&self->mem, 9), 4);
	ASSERT_EQ(4, object_load(&self->obj, 9));
	ASSERT_EQ(2, object_page(&self->obj, 0).faults);

	/* If the first access is a write, once is enough. */
	ASSERT_EQ(0, object_zap(&self->obj, 0));
	WRITE_MEM(word_of(&self->mem, 0), 5);
	ASSERT_EQ(3, object_page(&self->obj, 0).faults);
	expect_huge(_metadata, self, DEVEXCL_CACHING_WC);
}

TEST_F(huge, mprotect)
{
	struct mem *mem = &self->mem;
	const char *lack;
	uint64_t value;

	lack = touch_huge(_metadata, self,
			  map_huge_pfn(self, DEVEXCL_CACHING_WC, 0));
	if (lack)
		SKIP(return, "%s", lack);
	WRITE_MEM(word_of(mem, 0), 3);
	ASSERT_EQ(0, mprotect(mem->p, mem->size, PROT_READ));
	expect_huge(_metadata, self, DEVEXCL_CACHING_WC);
	expect_flags(&self->ap, mem, 5, DEVEXCL_ENTRY_WRITE, 0);
	ASSERT_EQ(SEGV_ACCERR, cpu_write(word_of(mem, 0), 4));
	expect_word(mem, 0, 3);
	ASSERT_EQ(0, mprotect(mem->p, mem->size, PROT_NONE));
	expect_huge(_metadata, self, DEVEXCL_CACHING_WC);
	ASSERT_EQ(SEGV_ACCERR, cpu_read(word_of(mem, 0), &value));
	ASSERT_EQ(0, mprotect(mem->p, mem->size, PROT_READ | PROT_WRITE));
	expect_word(mem, 0, 3);
	WRITE_MEM(word_of(mem, 0), 4);
	expect_huge(_metadata, self, DEVEXCL_CACHING_WC);
	ASSERT_EQ(4, object_load(&self->obj, 0));
}

/* Splits the huge entry: it is one mapping no more, for a moment. */
static const char *act_protect_one(struct racer *racer)
{
	mprotect(page_of(racer->mem, 5), page_size(), PROT_READ);
	mprotect(page_of(racer->mem, 5), page_size(), PROT_READ | PROT_WRITE);
	return act_write(racer);
}

/* Where it can be huge, one after the other */
static const struct place huge_places[] = {
	{ DEVEXCL_PLACE_IO, DEVEXCL_CACHING_WC },
	{ DEVEXCL_PLACE_BUFFER, DEVEXCL_CACHING_WB },
	{ DEVEXCL_PLACE_BUFFER, DEVEXCL_CACHING_WC },
};

/*
 * Move a huge page while somebody does this: where it is then it is mapped, and
 * cached as there. Or what the kernel lacks for that.
 */
static const char *move_huge_against(struct __test_metadata *_metadata,
				     FIXTURE_DATA(huge) *self,
				     const char *(*act)(struct racer *racer))
{
	struct racer racer = {
		.obj = &self->obj, .mem = &self->mem, .act = act,
	};
	const struct place *place;
	const char *lack;

	lack = touch_huge(_metadata, self,
			  map_huge_pfn(self, DEVEXCL_CACHING_WB, 0));
	if (lack)
		return lack;
	place = move_against(_metadata, &racer, huge_places,
			     ARRAY_SIZE(huge_places), MET);
	READ_MEM(word_of(&self->mem, 0));
	expect_pfn(&self->ap, &self->mem, 0, object_page(&self->obj, 0).pfn);
	if (aperture_can(&self->ap, DEVEXCL_APERTURE_CAP_PAT))
		expect_caching(&self->ap, &self->mem, 0, place->caching);
	return NULL;
}

/* Huge entries of other processes go as well, and no write is lost. */
TEST_F(huge, moved_in_processes)
{
	const char *lack = move_huge_against(_metadata, self, act_fork);

	if (lack)
		SKIP(return, "%s", lack);
	expect_kind(&self->ap, &self->mem, 5, HUGE);
}

/* Nor is one if the entry is split and comes back meanwhile. */
TEST_F(huge, moved_and_protected)
{
	const char *lack = move_huge_against(_metadata, self, act_protect_one);

	if (lack)
		SKIP(return, "%s", lack);
}

/* A child has the huge entry at once, the same but that it has not used it. */
TEST_F(huge, fork)
{
	const char *lack;
	pid_t child;

	lack = touch_huge(_metadata, self,
			  map_huge_pfn(self, DEVEXCL_CACHING_WC, 0));
	if (lack)
		SKIP(return, "%s", lack);
	WRITE_MEM(word_of(&self->mem, 0), 3);
	child = fork();
	ASSERT_GE(child, 0);
	if (!child) {
		const struct aperture *ap = &self->ap;
		uint64_t pfn = object_page(&self->obj, 5).pfn;
		const char *wrong = check_kind(ap, &self->mem, 5,
					       DEVEXCL_ENTRY_HUGE);

		if (!wrong)
			wrong = check_pfn(ap, &self->mem, 5, pfn);
		if (!wrong)
			wrong = check_flags(ap, &self->mem, 5,
					    DEVEXCL_ENTRY_SPECIAL |
					    DEVEXCL_ENTRY_YOUNG,
					    DEVEXCL_ENTRY_SPECIAL);
		if (!wrong && aperture_can(ap, DEVEXCL_APERTURE_CAP_PAT))
			wrong = check_caching(ap, &self->mem, 5,
					      DEVEXCL_CACHING_WC);
		if (wrong)
			TH_LOG("child: %s", wrong);
		WRITE_MEM(word_of(&self->mem, 9), 4);
		_exit(wrong || READ_MEM(word_of(&self->mem, 0)) != 3);
	}
	ASSERT_EQ(0, wait_child(child));
	expect_word(&self->mem, 9, 4);
	expect_huge(_metadata, self, DEVEXCL_CACHING_WC);
}

/* The mappings of a huge page, and its place in the resident set */
static void expect_counts(struct __test_metadata *_metadata,
			  FIXTURE_DATA(huge) *self, int mappings, size_t rss)
{
	EXPECT_EQ(1 + mappings, object_page(&self->obj, 5).refcount);
	EXPECT_EQ(mappings, object_page(&self->obj, 5).mapcount);
	EXPECT_EQ(rss * page_size() / 1024,
		  (size_t)smaps_kb(&self->mem, "Rss"));
}

TEST_F(huge, folio)
{
	const char *lack;

	lack = touch_huge(_metadata, self, map_huge_folio(self, 0));
	if (lack)
		SKIP(return, "%s", lack);
	WRITE_MEM(word_of(&self->mem, 0), 3);
	expect_flags(&self->ap, &self->mem, 5, DEVEXCL_ENTRY_SPECIAL, 0);
	expect_counts(_metadata, self, 1, self->mem.pages);
	ASSERT_EQ(0, object_zap(&self->obj, 0));
	expect_counts(_metadata, self, 0, 0);
	expect_word(&self->mem, 0, 3);
}

/* If writes are announced, then a read does not make it writable, nor dirty. */
TEST_F(huge, folio_read_then_written)
{
	const uint32_t flags = DEVEXCL_ENTRY_WRITE | DEVEXCL_ENTRY_DIRTY;
	const char *lack;

	lack = touch_huge(_metadata, self,
			  map_huge_folio(self, DEVEXCL_CREATE_PAGE_MKWRITE));
	if (lack)
		SKIP(return, "%s", lack);
	expect_flags(&self->ap, &self->mem, 5, flags, 0);
	WRITE_MEM(word_of(&self->mem, 0), 3);
	expect_kind(&self->ap, &self->mem, 5, HUGE);
	expect_flags(&self->ap, &self->mem, 5, flags, flags);
	expect_counts(_metadata, self, 1, self->mem.pages);
}

/* A part goes, and with it the huge entry: then nothing of it is counted. */
TEST_F(huge, folio_split)
{
	const char *lack;

	lack = touch_huge(_metadata, self, map_huge_folio(self, 0));
	if (lack)
		SKIP(return, "%s", lack);
	ASSERT_EQ(0, munmap(page_of(&self->mem, 5), page_size()));
	expect_none(&self->ap, &self->mem, 0);
	expect_counts(_metadata, self, 0, 0);
	/* It comes back in pieces. */
	expect_word(&self->mem, 0, 0);
	expect_kind(&self->ap, &self->mem, 0, PRESENT);
	EXPECT_EQ(1, object_page(&self->obj, 5).mapcount);
}

DEVEXCL_TEST_MAIN
