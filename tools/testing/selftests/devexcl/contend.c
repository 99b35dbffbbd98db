// SPDX-License-Identifier: GPL-2.0
/*
 * Two devices, or two contexts of one, and the CPUs want the same page: each
 * gets it, whoever had it is told, and nobody's update gets lost
 */
#include <pthread.h>
#include <sched.h>
#include <sys/param.h>

#include "devexcl_test.h"

#define PAGES		8
#define TARGET		1	/* the page that all want */

#define ROUNDS		100	/* of who works in turn */

FIXTURE(contend) {
	struct dev a;
	struct dev b;
	struct mem mem;
	struct devexcl_stats a_before;	/* devices have been used already */
	struct devexcl_stats b_before;
};

FIXTURE_VARIANT(contend) {
	unsigned int device_of_b;
};

FIXTURE_VARIANT_ADD(contend, two_devices) {
	.device_of_b = 1,
};

FIXTURE_VARIANT_ADD(contend, two_contexts) {
	.device_of_b = 0,
};

FIXTURE_SETUP(contend)
{
	setup_device(_metadata, &self->a, 0);
	setup_device(_metadata, &self->b, variant->device_of_b);
	setup_mirrored(_metadata, &self->a, &self->mem, PAGES);
	ASSERT_EQ(0, dev_mirror(&self->b, self->mem.p, self->mem.size));
	ASSERT_EQ(0, dev_stats(&self->a, &self->a_before));
	ASSERT_EQ(0, dev_stats(&self->b, &self->b_before));
}

FIXTURE_TEARDOWN(contend)
{
	mem_unmap(&self->mem);
	dev_close(&self->b);
	dev_close(&self->a);
}

static char wrong[256];

/* What each is told */

/* Somebody touches the page, which costs the device so many exclusive pages. */
static struct devexcl_event touch(const struct dev *dev, unsigned int exclusive)
{
	return (struct devexcl_event) {
		.type = DEVEXCL_EVENT_INVALIDATE,
		.cause = dev->info.restore_cause,
		.owner = DEVEXCL_OWNER_NONE,
		.exclusive = exclusive,
	};
}

/* A device makes it exclusive, which costs this one so many other mappings. */
static struct devexcl_event conversion(enum devexcl_owner owner,
				       unsigned int shared)
{
	return (struct devexcl_event) {
		.type = DEVEXCL_EVENT_INVALIDATE,
		.cause = DEVEXCL_CAUSE_EXCLUSIVE,
		.owner = owner,
		.shared = shared,
	};
}

static struct devexcl_event acquisition(void)
{
	return (struct devexcl_event) {
		.type = DEVEXCL_EVENT_ACQUIRE,
		.exclusive = 1,
	};
}

static struct devexcl_event mapping(void)
{
	return (struct devexcl_event) {
		.type = DEVEXCL_EVENT_MAP,
		.shared = 1,
	};
}

static bool is_record(const struct devexcl_event *is,
		      const struct devexcl_event *want, const char *page)
{
	return is->start == (uintptr_t)page &&
	       is->end == (uintptr_t)page + page_size() &&
	       is->type == want->type && is->cause == want->cause &&
	       is->owner == want->owner && is->exclusive == want->exclusive &&
	       is->shared == want->shared;
}

/* The device was told exactly this, in this order, and all about one page. */
static const char *check_told(struct dev *dev, const char *page,
			      const struct devexcl_event *want, size_t nr)
{
	struct devexcl_event is = {};
	size_t n;

	for (n = 0; dev_read_events(dev, &is, 1) > 0; n++) {
		if (n < nr && is_record(&is, &want[n], page))
			continue;
		snprintf(wrong, sizeof(wrong),
			 "record %zu of %zu is of type %u, cause %u, owner %u, for %llu pages, and took %u + %u",
			 n, nr, is.type, is.cause, is.owner,
			 (unsigned long long)(is.end - is.start) / page_size(),
			 is.exclusive, is.shared);
		return wrong;
	}
	return n == nr ? NULL : "records are missing";
}

#define expect_told(dev, page, ...)					\
do {									\
	const struct devexcl_event _want[] = { __VA_ARGS__ };		\
									\
	expect_claim(check_told(dev, page, _want, ARRAY_SIZE(_want)));	\
} while (0)

/* Add to a word as a device that needs its page would: it gets it first. */
static int add_to(struct dev *dev, uint64_t *word, uint64_t value,
		  uint64_t *old)
{
	struct devexcl_atomic_op op = {
		.addr = (uintptr_t)word,
		.operand = value,
		.op = DEVEXCL_OP_ADD,
		.width = sizeof(*word),
	};
	long done = dev_atomic(dev, &op, 1, DEVEXCL_ATOMIC_ACQUIRE, 0);

	*old = op.old;
	return done < 0 ? done : 0;
}

/* One device holds everything but the target. */
static const char *check_holds_rest(struct dev *dev, const struct mem *mem)
{
	return check_held(dev, mem, 0, TARGET, true) ?:
	       check_held(dev, mem, TARGET + 1, PAGES - TARGET - 1, true);
}

/* The pages on both sides of the contended ones belong to one device each. */
static void hold_neighbours(struct __test_metadata *_metadata,
			    FIXTURE_DATA(contend) *self, size_t pages)
{
	acquire_pages(&self->a, &self->mem, TARGET - 1, 1);
	acquire_pages(&self->b, &self->mem, TARGET + pages, 1);
	dev_forget_events(&self->a);
}

#define expect_neighbours_held(self, pages)				\
do {									\
	expect_held(&(self)->a, &(self)->mem, TARGET - 1, 1);		\
	expect_held(&(self)->b, &(self)->mem, TARGET + (pages), 1);	\
} while (0)

#define expect_data_and_references(self)				\
do {									\
	expect_data(&(self)->mem, 0, PAGES);				\
	expect_references(&(self)->a, &(self)->mem);			\
	expect_references(&(self)->b, &(self)->mem);			\
} while (0)

/*
 * The loser is told by the page being restored, as if a CPU had touched it.
 * What tells that it was a device comes afterwards, when there is nothing left
 * to lose.
 */
TEST_F(contend, takeover)
{
	struct dev *a = &self->a, *b = &self->b;
	char *page = page_of(&self->mem, TARGET);

	acquire_pages(a, &self->mem, 0, PAGES);
	dev_forget_events(b);
	ASSERT_EQ(0, dev_acquire_one(b, page));

	expect_told(a, page, touch(a, 1), conversion(DEVEXCL_OWNER_FOREIGN, 0));
	expect_told(b, page, touch(b, 0), conversion(DEVEXCL_OWNER_OWN, 0),
		    acquisition());
	expect_not_held(a, &self->mem, TARGET, 1);
	expect_held(b, &self->mem, TARGET, 1);
	expect_claim(check_holds_rest(a, &self->mem));
	expect_data_and_references(self);
}

TEST_F(contend, takeover_of_all_pages)
{
	struct taken taken;

	acquire_pages(&self->a, &self->mem, 0, PAGES);
	ASSERT_EQ(0, dev_acquire_all(&self->b, self->mem.p, PAGES));
	ASSERT_EQ(0, dev_taken(&self->a, &taken));
	EXPECT_EQ(PAGES, taken.exclusive);
	EXPECT_EQ(PAGES, taken.calls);
	EXPECT_EQ(cause_of_fault(&self->a), taken.causes);
	EXPECT_EQ(1U << DEVEXCL_OWNER_NONE, taken.owners);
	expect_not_held(&self->a, &self->mem, 0, PAGES);
	expect_held(&self->b, &self->mem, 0, PAGES);
	expect_data_and_references(self);
}

/* What a context has not been told to let go of it need not give up. */
TEST_F(contend, takeover_of_released_page)
{
	struct dev *a = &self->a, *b = &self->b;
	char *page = page_of(&self->mem, TARGET);

	acquire_pages(a, &self->mem, 0, PAGES);
	ASSERT_EQ(1, dev_release(a, page, 1));
	dev_forget_events(a);
	dev_forget_events(b);
	ASSERT_EQ(0, dev_acquire_one(b, page));

	expect_told(a, page, touch(a, 0), conversion(DEVEXCL_OWNER_FOREIGN, 0));
	expect_told(b, page, touch(b, 0), conversion(DEVEXCL_OWNER_OWN, 0),
		    acquisition());
	expect_claim(check_holds_rest(a, &self->mem));
	expect_data_and_references(self);
}

/*
 * An ordinary mapping of the other device is in the way, too: here the event
 * that names an owner is the one that counts.
 */
TEST_F(contend, takeover_from_reader)
{
	struct dev *a = &self->a, *b = &self->b;
	uint64_t value, *word = word_of(&self->mem, TARGET);
	char *page = page_of(&self->mem, TARGET);

	ASSERT_EQ(0, dev_read_word(b, word, &value));
	expect_told(b, page, mapping());
	ASSERT_EQ(0, dev_acquire_one(a, page));
	expect_told(b, page, conversion(DEVEXCL_OWNER_FOREIGN, 1));
	expect_told(a, page, conversion(DEVEXCL_OWNER_OWN, 0), acquisition());

	/* So the reader must ask again, and finds what was written since. */
	ASSERT_EQ(0, dev_add(a, word, 1, NULL));
	ASSERT_EQ(0, dev_read_word(b, word, &value));
	EXPECT_EQ(pattern_of(&self->mem, TARGET) + 1, value);
	expect_told(a, page, touch(a, 1));
	expect_told(b, page, touch(b, 0), mapping());
	ASSERT_EQ(pattern_of(&self->mem, TARGET) + 1, (*word)--);
	expect_data_and_references(self);
}

/* Reading is no reason to have it for oneself, but a reason to take it. */
TEST_F(contend, reader_takes_page)
{
	uint64_t value, *word = word_of(&self->mem, TARGET);

	acquire_pages(&self->a, &self->mem, 0, PAGES);
	ASSERT_EQ(0, dev_add(&self->a, word, 7, NULL));
	ASSERT_EQ(0, dev_read_word(&self->b, word, &value));
	EXPECT_EQ(pattern_of(&self->mem, TARGET) + 7, value);
	expect_told(&self->a, (char *)word, touch(&self->a, 1));
	expect_entries(&self->mem, TARGET, 1, ENTRY_PRESENT);
	expect_claim(check_holds_rest(&self->a, &self->mem));
	*word -= 7;
	expect_data_and_references(self);
}

/* While a page is made exclusive */

/**
 * struct taker - a thread that has a device acquire the target
 * @self: the fixture
 * @thread: the thread
 * @ret: what came of it
 */
struct taker {
	FIXTURE_DATA(contend) *self;
	pthread_t thread;
	int ret;
};

static void *take_target(void *arg)
{
	struct taker *taker = arg;

	taker->ret = dev_acquire_one(&taker->self->b,
				     page_of(&taker->self->mem, TARGET));
	return NULL;
}

/*
 * Have b acquire the target, until a is told of that: the kernel has looked for
 * the page, and not yet made it exclusive. It goes on when the file that is
 * returned is closed.
 */
static int stop_while_taken(FIXTURE_DATA(contend) *self, struct taker *taker)
{
	int stop = dev_break(&self->a, DEVEXCL_POINT_INVALIDATE,
			     page_of(&self->mem, TARGET));
	int ret;

	if (stop < 0)
		return stop;
	taker->self = self;
	ret = -pthread_create(&taker->thread, NULL, take_target, taker) ?:
	      wait_for_break(stop, STOP_SECONDS);
	return ret ?: stop;
}

/* Meanwhile another page has come there, and that is the one to take. */
TEST_F(contend, page_replaced_meanwhile)
{
	uint64_t *word = word_of(&self->mem, TARGET);
	struct taker taker = { .ret = -1 };
	int stop = stop_while_taken(self, &taker);

	ASSERT_LE(0, stop);
	ASSERT_EQ(0, madvise(page_of(&self->mem, TARGET), page_size(),
			     MADV_DONTNEED));
	WRITE_MEM(word, 4711);
	close(stop);
	ASSERT_EQ(0, pthread_join(taker.thread, NULL));

	EXPECT_EQ(0, taker.ret);
	expect_held(&self->b, &self->mem, TARGET, 1);
	ASSERT_EQ(0, dev_add(&self->b, word, 1, NULL));
	EXPECT_EQ(4712, READ_MEM(word));
	fill_mem(&self->mem);
	expect_data_and_references(self);
}

/* Two mirrors that meet: each is told of its own pages only. */
TEST_F(contend, two_mirrors_of_a_context)
{
	struct mem *mem = &self->mem;
	size_t half = mem->size / 2;
	char *last = page_of(mem, PAGES / 2 - 1), *first = last + page_size();
	struct devexcl_event events[4];

	ASSERT_EQ(0, dev_unmirror(&self->a, mem->p, mem->size));
	ASSERT_EQ(0, dev_mirror(&self->a, mem->p, half));
	ASSERT_EQ(0, dev_mirror(&self->a, mem->p + half, half));
	ASSERT_EQ(-ENXIO, dev_acquire(&self->a, last, 2));
	dev_forget_events(&self->a);
	ASSERT_EQ(0, dev_acquire_one(&self->a, last));
	ASSERT_EQ(0, dev_acquire_one(&self->a, first));
	ASSERT_EQ(4, dev_read_events(&self->a, events, 4));
	EXPECT_EQ(events[0].mirror, events[1].mirror);
	EXPECT_EQ(events[2].mirror, events[3].mirror);
	EXPECT_NE(events[0].mirror, events[2].mirror);

	ASSERT_EQ(0, dev_acquire_one(&self->b, first));
	expect_held(&self->a, mem, PAGES / 2 - 1, 1);
	EXPECT_EQ(2, dev_read_events(&self->a, &events[0], 2));
	EXPECT_EQ(events[2].mirror, events[0].mirror);
	EXPECT_EQ(events[2].mirror, events[1].mirror);
	expect_data(mem, 0, PAGES);
	expect_references(&self->b, mem);
}

/* In turn */

/* All that happened was about the target, and it happened so often. */
static const char *check_turns(struct dev *dev, const struct mem *mem,
			       size_t acquired, size_t lost)
{
	uintptr_t page = (uintptr_t)page_of(mem, TARGET);
	struct taken taken;

	if (dev_taken(dev, &taken) || taken.lost)
		return "events are missing";
	if (taken.acquired != acquired || taken.own != acquired)
		return "the page was not acquired once each turn";
	if (taken.exclusive != lost || taken.calls != lost)
		return "the page was not taken once each turn";
	if (taken.causes != cause_of_fault(dev))
		return "the page was not taken for the cause of a CPU fault";
	if (taken.owners != 1U << DEVEXCL_OWNER_NONE)
		return "a CPU fault names an owner";
	if (taken.first != page || taken.last != page + page_size())
		return "more was invalidated than the page";
	return NULL;
}

TEST_F(contend, two_in_turn)
{
	uint64_t *word = word_of(&self->mem, TARGET), want = *word, old;
	int i;

	hold_neighbours(_metadata, self, 1);
	for (i = 0; i < ROUNDS; i++) {
		ASSERT_EQ(0, add_to(&self->a, word, 3, &old));
		ASSERT_EQ(want, old);
		ASSERT_EQ(0, add_to(&self->b, word, 5, &old));
		ASSERT_EQ(want + 3, old);
		want += 3 + 5;
	}
	expect_claim(check_turns(&self->a, &self->mem, ROUNDS, ROUNDS));
	expect_claim(check_turns(&self->b, &self->mem, ROUNDS, ROUNDS - 1));
	expect_held(&self->b, &self->mem, TARGET, 1);
	expect_neighbours_held(self, 1);
	*word -= ROUNDS * (3 + 5);
	expect_data_and_references(self);
}

TEST_F(contend, three_in_turn)
{
	uint64_t *word = word_of(&self->mem, TARGET), want = *word, old;
	int i;

	hold_neighbours(_metadata, self, 1);
	for (i = 0; i < ROUNDS; i++) {
		ASSERT_EQ(0, add_to(&self->a, word, 3, &old));
		ASSERT_EQ(want, old);
		ASSERT_EQ(0, add_to(&self->b, word, 5, &old));
		ASSERT_EQ(want + 3, old);
		old = __atomic_fetch_add(word, 7, __ATOMIC_SEQ_CST);
		ASSERT_EQ(want + 3 + 5, old);
		want += 3 + 5 + 7;
	}
	expect_claim(check_turns(&self->a, &self->mem, ROUNDS, ROUNDS));
	expect_claim(check_turns(&self->b, &self->mem, ROUNDS, ROUNDS));
	expect_neighbours_held(self, 1);
	*word -= ROUNDS * (3 + 5 + 7);
	expect_data_and_references(self);
}

/*
 * At once. Each operation changes a word by some number. If each has found
 * what another left, the word has changed by the sum of them; if one came in
 * between another's load and store, it has not.
 */

#define MAX_PARTIES	5
#define MAX_WORDS	32
#define BATCH		16	/* operations that a device does in one go */
#define GAP_NS		1000
#define CPU_OPS		16000
#define DEVICE_OPS	700
#define READS		1000
#define TIMEOUT		120	/* a kernel full of checks is slow */

struct contest;

/**
 * struct party - a thread that takes part
 * @contest: in this
 * @dev: with this device, or NULL
 * @step: does some of its work
 * @thread: itself
 * @random: state of its random numbers
 * @goal: operations that it must have done at least
 * @begun: operations that it may have done
 * @done: operations that it has done
 * @refused: times that it was told to try again
 * @change: by how much it has changed each word
 * @error: negative errno that ended its work, or 0
 */
struct party {
	struct contest *contest;
	struct dev *dev;
	void (*step)(struct party *party);
	pthread_t thread;
	uint64_t random;
	size_t goal;
	size_t begun;
	size_t done;
	size_t refused;
	uint64_t change[MAX_WORDS];
	int error;
};

/**
 * struct contest - what it is about
 * @mem: the memory
 * @pages: contended pages, from TARGET on
 * @words: words used in each of them, one a cache line
 * @own_words: each party works on its own word only
 * @count: all operations are additions of 1
 * @ask_first: devices acquire pages by ioctl, when an operation is refused
 * @start: all begin at once
 * @working: parties that have not reached their goals
 * @nr: parties
 * @party: they
 */
struct contest {
	const struct mem *mem;
	size_t pages;
	size_t words;
	bool own_words;
	bool count;
	bool ask_first;
	pthread_barrier_t start;
	unsigned int working;
	size_t nr;
	struct party party[MAX_PARTIES];
};

static uint64_t *contested_word(const struct contest *contest, size_t n)
{
	return word_of(contest->mem, TARGET + n / contest->words) +
	       n % contest->words * 8;
}

static size_t choose_word(struct party *party)
{
	const struct contest *contest = party->contest;

	if (contest->own_words)
		return party - contest->party;
	return random_next(&party->random) % (contest->pages * contest->words);
}

/* Make up an operation; say by how much it changes a word that is @old. */
static void choose_op(struct party *party, struct devexcl_atomic_op *op)
{
	static const unsigned char ops[] = {
		DEVEXCL_OP_ADD, DEVEXCL_OP_SUB, DEVEXCL_OP_XOR, DEVEXCL_OP_XCHG,
	};
	bool count = party->contest->count;

	*op = (struct devexcl_atomic_op) {
		.op = count ? DEVEXCL_OP_ADD :
		      ops[random_next(&party->random) % 4],
		.operand = count ? 1 : random_next(&party->random),
		.width = 8,
	};
}

static uint64_t change_by(const struct devexcl_atomic_op *op)
{
	switch (op->op) {
	case DEVEXCL_OP_ADD:
		return op->operand;
	case DEVEXCL_OP_SUB:
		return -op->operand;
	case DEVEXCL_OP_XOR:
		return (op->old ^ op->operand) - op->old;
	default:
		return op->operand - op->old;
	}
}

static uint64_t cpu_op(const struct devexcl_atomic_op *op, uint64_t *word)
{
	switch (op->op) {
	case DEVEXCL_OP_ADD:
		return __atomic_fetch_add(word, op->operand, __ATOMIC_SEQ_CST);
	case DEVEXCL_OP_SUB:
		return __atomic_fetch_sub(word, op->operand, __ATOMIC_SEQ_CST);
	case DEVEXCL_OP_XOR:
		return __atomic_fetch_xor(word, op->operand, __ATOMIC_SEQ_CST);
	default:
		return __atomic_exchange_n(word, op->operand, __ATOMIC_SEQ_CST);
	}
}

static void begin_ops(struct party *party, size_t nr)
{
	__atomic_store_n(&party->begun, party->begun + nr, __ATOMIC_SEQ_CST);
}

static void end_ops(struct party *party, size_t nr)
{
	__atomic_store_n(&party->done, party->done + nr, __ATOMIC_SEQ_CST);
}

/* Do nothing for a moment: mostly a short one, so that others are met. */
static void dawdle(uint64_t *random, unsigned int most)
{
	unsigned int n = random_next(random) % most;

	n >>= random_next(random) % 8;
	while (n--)
		asm volatile("" : : : "memory");
}

static void cpu_step(struct party *party)
{
	size_t n = choose_word(party);
	struct devexcl_atomic_op op;

	choose_op(party, &op);
	begin_ops(party, 1);
	op.old = cpu_op(&op, contested_word(party->contest, n));
	end_ops(party, 1);
	party->change[n] += change_by(&op);
	dawdle(&party->random, 20000);
}

/* Let the device get the page when an operation finds that it has it not. */
static long ask_and_do(struct dev *dev, struct devexcl_atomic_op *ops,
		       size_t nr)
{
	long ret = dev_atomic(dev, ops, nr, DEVEXCL_ATOMIC_GAP, GAP_NS);

	if (ret != -EACCES)
		return ret;
	ret = dev_acquire(dev, (void *)(ops->addr & -page_size()), 1);
	return ret < 0 ? ret : 0;
}

static size_t do_ops(struct party *party, struct devexcl_atomic_op *ops,
		     size_t nr)
{
	size_t done = 0;

	while (done < nr && !party->error) {
		long ret = party->contest->ask_first ?
			   ask_and_do(party->dev, ops + done, nr - done) :
			   dev_atomic(party->dev, ops + done, nr - done,
				      DEVEXCL_ATOMIC_GAP |
				      DEVEXCL_ATOMIC_ACQUIRE, GAP_NS);

		if (ret >= 0)
			done += ret;
		else if (ret == -EBUSY || ret == -EINTR)
			party->refused++;
		else
			party->error = ret;
	}
	return done;
}

static void device_step(struct party *party)
{
	struct devexcl_atomic_op ops[BATCH];
	size_t word[BATCH], n, done;

	for (n = 0; n < BATCH; n++) {
		word[n] = choose_word(party);
		choose_op(party, &ops[n]);
		ops[n].addr = (uintptr_t)contested_word(party->contest,
							word[n]);
	}
	begin_ops(party, BATCH);
	done = do_ops(party, ops, BATCH);
	end_ops(party, done);
	for (n = 0; n < done; n++)
		party->change[word[n]] += change_by(&ops[n]);
}

static void *run_party(void *arg)
{
	struct party *party = arg;
	struct contest *contest = party->contest;
	bool working = true;

	pthread_barrier_wait(&contest->start);
	while (__atomic_load_n(&contest->working, __ATOMIC_SEQ_CST)) {
		if (!party->error)
			party->step(party);
		if (working && (party->error || party->done >= party->goal)) {
			__atomic_sub_fetch(&contest->working, 1,
					   __ATOMIC_SEQ_CST);
			working = false;
		}
	}
	return NULL;
}

static void add_party(struct contest *contest, struct dev *dev,
		      void (*step)(struct party *party), size_t goal)
{
	contest->party[contest->nr++] = (struct party) {
		.contest = contest,
		.dev = dev,
		.step = step,
		.goal = goal,
	};
}

/* Two CPUs and two devices. */
static struct contest *new_contest(FIXTURE_DATA(contend) *self, size_t pages,
				   size_t words)
{
	struct contest *contest = calloc(1, sizeof(*contest));

	contest->mem = &self->mem;
	contest->pages = pages;
	contest->words = words;
	add_party(contest, NULL, cpu_step, CPU_OPS);
	add_party(contest, NULL, cpu_step, CPU_OPS);
	add_party(contest, &self->a, device_step, DEVICE_OPS);
	add_party(contest, &self->b, device_step, DEVICE_OPS);
	return contest;
}

/* Each must have got as far as it had to. */
static void run_contest(struct __test_metadata *_metadata,
			struct contest *contest)
{
	uint64_t seed = random_seed();
	struct party *party;

	contest->working = contest->nr;
	ASSERT_EQ(0, pthread_barrier_init(&contest->start, NULL, contest->nr));
	for (party = contest->party; party < contest->party + contest->nr;
	     party++) {
		party->random = random_next(&seed);
		ASSERT_EQ(0, pthread_create(&party->thread, NULL, run_party,
					    party));
	}
	for (party = contest->party; party < contest->party + contest->nr;
	     party++) {
		ASSERT_EQ(0, pthread_join(party->thread, NULL));
		TH_LOG("party %zu: %zu operations, %zu times refused",
		       party - contest->party, party->done, party->refused);
		EXPECT_EQ(0, party->error);
		EXPECT_LE(party->goal, party->done);
	}
}

/* The words are what they were, when all changes are taken back. */
static void take_back(const struct contest *contest)
{
	size_t n, i;

	for (n = 0; n < contest->pages * contest->words; n++)
		for (i = 0; i < contest->nr; i++)
			*contested_word(contest, n) -=
				contest->party[i].change[n];
}

/* Every page that the device got it has lost, let go, or still has. */
static const char *check_books(struct dev *dev,
			       const struct devexcl_stats *before,
			       uint32_t causes)
{
	struct devexcl_stats stats;
	struct taken taken;
	uint64_t gone;
	int i;

	if (dev_taken(dev, &taken) || dev_stats(dev, &stats))
		return "cannot read events and counters";
	gone = stats.released + stats.held;
	for (i = 0; i < DEVEXCL_CAUSE_NR; i++) {
		gone += stats.lost[i];
		if (stats.lost[i] > before->lost[i] && !(causes & (1U << i)))
			return "pages were taken for other causes";
	}
	if (gone != stats.acquired)
		return "pages acquired are not those lost, released and held";
	if (taken.lost != stats.events_lost)
		return "the stream does not say how many records are missing";
	return NULL;
}

/*
 * A page can be taken also by the conversion: if it was acquired after the
 * other device had looked it up, and before that got the folio's lock.
 */
#define expect_books(self, causes)					\
do {									\
	uint32_t _causes = (causes) | CAUSE(EXCLUSIVE) |		\
			   cause_of_fault(&(self)->a);			\
									\
	expect_claim(check_books(&(self)->a, &(self)->a_before,	\
				 _causes));			\
	expect_claim(check_books(&(self)->b, &(self)->b_before,	\
				 _causes));			\
} while (0)

static void hold_contest(struct __test_metadata *_metadata,
			 FIXTURE_DATA(contend) *self, struct contest *contest)
{
	hold_neighbours(_metadata, self, contest->pages);
	run_contest(_metadata, contest);
	expect_neighbours_held(self, contest->pages);
	expect_books(self, 0);
	take_back(contest);
	free(contest);
	expect_data_and_references(self);
}

TEST_F_TIMEOUT(contend, sum_of_one_word, TIMEOUT)
{
	hold_contest(_metadata, self, new_contest(self, 1, 1));
}

/* Nobody wants the others' words, but all want the page. */
TEST_F_TIMEOUT(contend, sum_of_own_words_in_one_page, TIMEOUT)
{
	struct contest *contest = new_contest(self, 1, MAX_PARTIES);

	contest->own_words = true;
	hold_contest(_metadata, self, contest);
}

TEST_F_TIMEOUT(contend, sum_of_random_words_in_some_pages, TIMEOUT)
{
	hold_contest(_metadata, self, new_contest(self, 4, 8));
}

TEST_F_TIMEOUT(contend, sum_when_asking_first, TIMEOUT)
{
	struct contest *contest = new_contest(self, 2, 4);

	contest->ask_first = true;
	hold_contest(_metadata, self, contest);
}

/*
 * A third context reads without being exclusive. What it finds in a party's
 * word was written: it is not older than what the party had done before, nor
 * newer than what it has begun since.
 */
static bool is_count(struct party *writer, size_t low, uint64_t count)
{
	size_t high = __atomic_load_n(&writer->begun, __ATOMIC_SEQ_CST);
	uint64_t ahead = count - low;

	/* A copy is made of bytes, and a CPU can write while it is made. */
	if (!writer->dev)
		ahead = (uint8_t)ahead;
	if (ahead <= high - low)
		return true;
	fprintf(stderr, "# read the count %llu of a %s between %zu and %zu\n",
		(unsigned long long)count, writer->dev ? "device" : "CPU", low,
		high);
	return false;
}

static void reader_step(struct party *party)
{
	struct contest *contest = party->contest;
	uint64_t values[MAX_PARTIES][8];
	size_t low[MAX_PARTIES], n;
	long ret;

	for (n = 0; n < contest->nr; n++)
		low[n] = __atomic_load_n(&contest->party[n].done,
					 __ATOMIC_SEQ_CST);
	ret = dev_copy(party->dev, contested_word(contest, 0), values,
		       sizeof(values[0]) * (contest->nr - 1), 0);
	if (ret == -EBUSY || ret == -EINTR) {
		party->refused++;
		return;
	}
	if (ret < 0)
		party->error = ret;
	for (n = 0; n < contest->nr - 1 && ret > 0; n++)
		if (!is_count(&contest->party[n], low[n],
			      values[n][0] - pattern_word(TARGET, n * 8)))
			party->error = -EILSEQ;
	end_ops(party, 1);
}

TEST_F_TIMEOUT(contend, readers_see_what_was_written, TIMEOUT)
{
	struct contest *contest = new_contest(self, 1, MAX_PARTIES);
	struct dev c;

	ASSERT_EQ(0, dev_open(&c, 0));
	ASSERT_EQ(0, break_driver(&c));
	ASSERT_EQ(0, dev_mirror(&c, self->mem.p, self->mem.size));
	contest->own_words = true;
	contest->count = true;
	add_party(contest, &c, reader_step, READS);
	hold_contest(_metadata, self, contest);
	dev_close(&c);
}

/*
 * Pages that are thrown away: an adding device, a reading device, and a thread
 * that empties the page again and again
 */

#define ADDS		10000
#define ADDS_A_WIPE	3
#define MAX_SEEN	100000

/**
 * struct add - one addition of 1
 * @wiped: wipes that were over before it began
 * @old: what it found
 * @wiping: wipes that had begun when it was over
 */
struct add {
	uint64_t wiped;
	uint64_t old;
	uint64_t wiping;
};

/**
 * struct seen - what a reader found
 * @wiped: wipes that were over before it read
 * @added: additions that were over before
 * @value: what it found
 * @wiping: wipes that had begun afterwards
 * @adds: additions that had begun afterwards
 */
struct seen {
	uint64_t wiped;
	uint64_t added;
	uint64_t value;
	uint64_t wiping;
	uint64_t adds;
};

/**
 * struct wipes - the word that is wiped, and its history
 * @word: it
 * @begun: wipes that have begun
 * @over: wipes that are over
 * @adder: the device that adds
 * @adds: additions that have begun
 * @added: additions that are over
 * @add: they
 * @reader: the device that reads
 * @nr_seen: what it has seen
 * @seen: they
 * @wiper_random: for the moments between wipes
 * @reader_random: for the moments between reads
 * @error: negative errno that ended it
 */
struct wipes {
	uint64_t *word;
	uint64_t begun;
	uint64_t over;
	struct dev *adder;
	uint64_t adds;
	uint64_t added;
	struct add add[ADDS];
	struct dev *reader;
	size_t nr_seen;
	struct seen seen[MAX_SEEN];
	uint64_t wiper_random;
	uint64_t reader_random;
	int error;
};

static uint64_t load(const uint64_t *counter)
{
	return __atomic_load_n(counter, __ATOMIC_SEQ_CST);
}

static void count(uint64_t *counter)
{
	__atomic_add_fetch(counter, 1, __ATOMIC_SEQ_CST);
}

static void *run_adder(void *arg)
{
	struct wipes *wipes = arg;
	struct add *add;
	int ret;

	for (add = wipes->add; add < wipes->add + ADDS; add++) {
		add->wiped = load(&wipes->over);
		count(&wipes->adds);
		do {
			ret = add_to(wipes->adder, wipes->word, 1, &add->old);
		} while (ret == -EBUSY || ret == -EINTR);
		if (ret)
			wipes->error = ret;
		add->wiping = load(&wipes->begun);
		count(&wipes->added);
	}
	return NULL;
}

/*
 * Hit the device where it hurts: while it gets back a page with something on
 * it. So let it add something, take the page away, and then wipe it. If it has
 * the wrong page now, its next operations show that.
 */
static void *run_wiper(void *arg)
{
	struct wipes *wipes = arg;
	uint64_t added;

	while ((added = load(&wipes->added)) < ADDS) {
		while (load(&wipes->added) < MIN(added + ADDS_A_WIPE, ADDS))
			sched_yield();
		READ_MEM(wipes->word);
		dawdle(&wipes->wiper_random, 30000);
		count(&wipes->begun);
		if (madvise(wipes->word, page_size(), MADV_DONTNEED))
			wipes->error = -errno;
		count(&wipes->over);
	}
	return NULL;
}

static void *run_reader(void *arg)
{
	struct wipes *wipes = arg;
	struct seen *seen = wipes->seen;
	int ret;

	while (load(&wipes->adds) < ADDS && seen < wipes->seen + MAX_SEEN) {
		seen->wiped = load(&wipes->over);
		seen->added = load(&wipes->added);
		ret = dev_read_word(wipes->reader, wipes->word, &seen->value);
		seen->wiping = load(&wipes->begun);
		seen->adds = load(&wipes->adds);
		if (!ret)
			seen++;
		else if (ret != -EBUSY && ret != -EINTR)
			wipes->error = ret;
		dawdle(&wipes->reader_random, 50000);
	}
	wipes->nr_seen = seen - wipes->seen;
	return NULL;
}

/*
 * How many of the first @adds additions can have been left when @wiped wipes
 * were over: not those that were over before the last of them began.
 */
static uint64_t left_at_most(const struct wipes *wipes, uint64_t adds,
			     uint64_t wiped)
{
	uint64_t left = 0;

	while (left < adds && wipes->add[adds - left - 1].wiping >= wiped)
		left++;
	return left;
}

/* And how many must have been: those that began after @wiping were over. */
static uint64_t left_at_least(const struct wipes *wipes, uint64_t adds,
			      uint64_t wiping)
{
	uint64_t left = 0;

	while (left < adds && wipes->add[adds - left - 1].wiped >= wiping)
		left++;
	return left;
}

static const char *check_adds(const struct wipes *wipes)
{
	uint64_t n;

	for (n = 0; n < ADDS; n++) {
		const struct add *add = &wipes->add[n];

		if (add->old > left_at_most(wipes, n, add->wiped))
			return "the device worked on a page that was thrown away";
		if (add->old && (!n || add->old != add[-1].old + 1))
			return "the device found what nobody had written";
	}
	return NULL;
}

static const char *check_seen(const struct wipes *wipes)
{
	size_t n;

	for (n = 0; n < wipes->nr_seen; n++) {
		const struct seen *seen = &wipes->seen[n];

		if (seen->value > left_at_most(wipes, seen->adds, seen->wiped))
			return "the device read a page that was thrown away";
		if (seen->value < left_at_least(wipes, seen->added,
						seen->wiping))
			return "the other device worked on a page that was thrown away";
	}
	return NULL;
}

TEST_F_TIMEOUT(contend, pages_thrown_away, TIMEOUT)
{
	void *(*run[])(void *) = { run_adder, run_wiper, run_reader };
	struct wipes *wipes = calloc(1, sizeof(*wipes));
	pthread_t thread[ARRAY_SIZE(run)];
	size_t i;

	wipes->word = word_of(&self->mem, TARGET);
	wipes->adder = &self->a;
	wipes->reader = &self->b;
	wipes->wiper_random = random_seed();
	wipes->reader_random = ~wipes->wiper_random;
	*wipes->word = 0;
	hold_neighbours(_metadata, self, 1);
	for (i = 0; i < ARRAY_SIZE(run); i++)
		ASSERT_EQ(0, pthread_create(&thread[i], NULL, run[i], wipes));
	for (i = 0; i < ARRAY_SIZE(run); i++)
		ASSERT_EQ(0, pthread_join(thread[i], NULL));

	EXPECT_EQ(0, wipes->error);
	TH_LOG("%llu wipes, %zu reads", (unsigned long long)wipes->over,
	       wipes->nr_seen);
	expect_claim(check_adds(wipes));
	expect_claim(check_seen(wipes));
	expect_neighbours_held(self, 1);
	expect_books(self, CAUSE(CLEAR));
	free(wipes);
	fill_mem(&self->mem);
	expect_data_and_references(self);
}

DEVEXCL_TEST_MAIN
