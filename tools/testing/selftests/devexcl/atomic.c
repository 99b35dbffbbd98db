// SPDX-License-Identifier: GPL-2.0
/*
 * The device's atomic operations compute what a model of them computes, change
 * the bytes that they should and no others, run in order, and only on pages
 * that the device holds
 *
 * Each test gives the same operations to the device and to the model, which
 * has a copy of the memory. At the end all of the memory must be equal.
 */
#include <pthread.h>

#include "devexcl_test.h"

#define PAGES		4
#define MAX_OPS		10000
#define SOME_OPS	100	/* more than the device copies in at once */
#define CACHE_LINE	64

#define ROUNDS		1000
#define ROUNDS_A_LOOK	100	/* the event stream does not hold them all */

/* What the device must not write to. */
#define UNTOUCHED	0x7465737465743432ULL
#define UNTOUCHED_ERROR	4242

static const unsigned int widths[] = { 1, 2, 4, 8 };

FIXTURE(atomic) {
	struct dev dev;
	struct mem mem;
	char *model;	/* what the memory should hold */
	struct devexcl_atomic_op *ops;
	uint64_t *want;	/* what they should find there */
	size_t nr_ops;
	unsigned int flags;
	uint64_t random;
};

FIXTURE_VARIANT(atomic) {
	unsigned int flags;
};

FIXTURE_VARIANT_ADD(atomic, instruction) {
	.flags = 0,
};

FIXTURE_VARIANT_ADD(atomic, gap) {
	.flags = DEVEXCL_ATOMIC_GAP,
};

FIXTURE_SETUP(atomic)
{
	setup_device(_metadata, &self->dev, 0);
	setup_mirrored(_metadata, &self->dev, &self->mem, PAGES);
	self->flags = variant->flags;
	self->model = malloc(self->mem.size);
	self->ops = calloc(MAX_OPS, sizeof(*self->ops));
	self->want = calloc(MAX_OPS, sizeof(*self->want));
	ASSERT_NE(NULL, self->model);
	ASSERT_NE(NULL, self->ops);
	ASSERT_NE(NULL, self->want);
	memcpy(self->model, self->mem.p, self->mem.size);
}

FIXTURE_TEARDOWN(atomic)
{
	free(self->want);
	free(self->ops);
	free(self->model);
	mem_unmap(&self->mem);
	dev_close(&self->dev);
}

/*
 * The model. It knows numbers, of which there are @range, and counts with them
 * as in school: no masks, no shifts, no wrapping types, as the device has them.
 */

static __int128 range_of(unsigned int width)
{
	return (__int128)1 << (8 * width);
}

/* The number that the same bits are in two's complement. */
static __int128 signed_number(__int128 number, __int128 range)
{
	return number < range / 2 ? number : number - range;
}

/* AND, OR and XOR, by counting how many of both have a bit. */
static uint64_t model_bits(unsigned int op, uint64_t a, uint64_t b)
{
	uint64_t value, result = 0;

	for (value = 1; value; value *= 2) {
		int both = !!(a & value) + !!(b & value);

		if ((op == DEVEXCL_OP_AND && both == 2) ||
		    (op == DEVEXCL_OP_OR && both) ||
		    (op == DEVEXCL_OP_XOR && both == 1))
			result += value;
	}
	return result;
}

static uint64_t model_result(const struct devexcl_atomic_op *op, uint64_t old)
{
	__int128 range = range_of(op->width);
	__int128 a = old, b = op->operand % range;
	bool less = signed_number(a, range) < signed_number(b, range);

	switch (op->op) {
	case DEVEXCL_OP_ADD:
		return (a + b) % range;
	case DEVEXCL_OP_SUB:
		return (a - b + range) % range;
	case DEVEXCL_OP_XCHG:
		return b;
	case DEVEXCL_OP_CMPXCHG:
		return a == op->compare % range ? b : a;
	case DEVEXCL_OP_UMIN:
		return a < b ? a : b;
	case DEVEXCL_OP_UMAX:
		return a < b ? b : a;
	case DEVEXCL_OP_SMIN:
		return less ? a : b;
	case DEVEXCL_OP_SMAX:
		return less ? b : a;
	case DEVEXCL_OP_INC_WRAP:
		return a < b ? a + 1 : 0;
	case DEVEXCL_OP_DEC_WRAP:
		return a > 0 && a <= b ? a - 1 : b;
	default:
		return model_bits(op->op, a, b);
	}
}

/* The bytes of a 64-bit number that hold its low @width bytes. */
static char *low_bytes(uint64_t *value, unsigned int width)
{
	const uint16_t one = 1;
	bool little_endian = *(const char *)&one;

	return (char *)value + (little_endian ? 0 : sizeof(*value) - width);
}

static char *model_of(FIXTURE_DATA(atomic) *self, uint64_t addr)
{
	return self->model + (addr - (uintptr_t)self->mem.p);
}

static uint64_t model_load(FIXTURE_DATA(atomic) *self, uint64_t addr,
			   unsigned int width)
{
	uint64_t value = 0;

	memcpy(low_bytes(&value, width), model_of(self, addr), width);
	return value;
}

static void model_store(FIXTURE_DATA(atomic) *self, uint64_t addr,
			unsigned int width, uint64_t value)
{
	memcpy(model_of(self, addr), low_bytes(&value, width), width);
}

/* The CPU writes, in the memory and in the model. */
static void cpu_store(FIXTURE_DATA(atomic) *self, char *p, unsigned int width,
		      uint64_t value)
{
	memcpy(p, low_bytes(&value, width), width);
	model_store(self, (uintptr_t)p, width, value);
}

/* Making batches */

/* Add an operation to the batch that should not get done. */
static struct devexcl_atomic_op *
add_undone(FIXTURE_DATA(atomic) *self, const void *p, unsigned int op,
	   unsigned int width, uint64_t operand, uint64_t compare)
{
	struct devexcl_atomic_op *new = &self->ops[self->nr_ops];

	self->want[self->nr_ops++] = UNTOUCHED;
	*new = (struct devexcl_atomic_op) {
		.addr = (uintptr_t)p,
		.operand = operand,
		.compare = compare,
		.old = UNTOUCHED,
		.op = op,
		.width = width,
		.error = UNTOUCHED_ERROR,
	};
	return new;
}

/* Add an operation to the batch, and do it in the model. */
static void add_op(FIXTURE_DATA(atomic) *self, const void *p, unsigned int op,
		   unsigned int width, uint64_t operand, uint64_t compare)
{
	uint64_t old = model_load(self, (uintptr_t)p, width);
	struct devexcl_atomic_op *new;

	new = add_undone(self, p, op, width, operand, compare);
	self->want[self->nr_ops - 1] = old;
	model_store(self, new->addr, width, model_result(new, old));
}

/* Numbers of all sizes; those that are too large for the width, too. */
static uint64_t random_operand(FIXTURE_DATA(atomic) *self)
{
	return random_next(&self->random) >> (random_next(&self->random) % 64);
}

static void add_random_operand(FIXTURE_DATA(atomic) *self, const void *p,
			       unsigned int op, unsigned int width)
{
	uint64_t compare = random_operand(self);

	/* What differs above the width does not differ. */
	if (compare % 2) {
		memcpy(low_bytes(&compare, width),
		       model_of(self, (uintptr_t)p), width);
	}
	add_op(self, p, op, width, random_operand(self), compare);
}

/* Any operation of any width, on a word of its size in a page. */
static void add_random_op(FIXTURE_DATA(atomic) *self, size_t page)
{
	unsigned int width = widths[random_next(&self->random) % 4];
	unsigned int op = random_next(&self->random) % DEVEXCL_OP_NR;
	size_t word = random_next(&self->random) % (page_size() / width);

	add_random_operand(self, page_of(&self->mem, page) + word * width, op,
			   width);
}

static void add_random_ops(FIXTURE_DATA(atomic) *self, size_t pages, size_t nr)
{
	while (nr--)
		add_random_op(self, random_next(&self->random) % pages);
}

/* The numbers at which something wraps or changes its sign. */
static uint64_t edge(unsigned int width, unsigned int n)
{
	uint64_t max = range_of(width) - 1, sign = range_of(width) / 2;
	uint64_t edges[] = { 0, 1, sign - 1, sign, max - 1, max };

	return edges[n];
}

/*
 * All pairs of edges, in all widths, with an equal and an unequal number to
 * compare with; in each second case the bits above the width are set. Each
 * case has a word of its own, between others that must stay as they are.
 */
#define EDGE_CASES	(4 * 6 * 6 * 2)

static void add_edge_case(FIXTURE_DATA(atomic) *self, unsigned int op,
			  unsigned int n)
{
	unsigned int width = widths[n / (6 * 6 * 2)];
	uint64_t old = edge(width, n / (6 * 2) % 6);
	uint64_t operand = edge(width, n / 2 % 6), compare = old;
	char *p = self->mem.p + n * 32 + n * width % 32;

	if (n % 2) {
		compare ^= 1ULL << (n % (8 * width));
	} else if (width < 8) {
		operand += ~0ULL << (8 * width);
		compare += ~0ULL << (8 * width);
	}
	cpu_store(self, p, width, old);
	add_op(self, p, op, width, operand, compare);
}

/* Claims */

static char wrong[256];

static const char *check_op(FIXTURE_DATA(atomic) *self, size_t n, int error)
{
	const struct devexcl_atomic_op *op = &self->ops[n];

	if (op->old == self->want[n] && op->error == error)
		return NULL;
	snprintf(wrong, sizeof(wrong),
		 "number %zu (op %d, width %d, operand %#llx, compare %#llx): found %#llx (error %d), expected %#llx (error %d)",
		 n, op->op, op->width, (unsigned long long)op->operand,
		 (unsigned long long)op->compare, (unsigned long long)op->old,
		 op->error, (unsigned long long)self->want[n], error);
	return wrong;
}

/* The first @done were done, the next one failed, the others are untouched. */
static const char *check_ops(FIXTURE_DATA(atomic) *self, size_t done, int error)
{
	const char *ret = NULL;
	size_t n;

	for (n = 0; n < self->nr_ops && !ret; n++)
		ret = check_op(self, n, n < done ? 0 :
			       n == done ? error : UNTOUCHED_ERROR);
	return ret;
}

static const char *check_model(FIXTURE_DATA(atomic) *self)
{
	const unsigned char *is = (unsigned char *)self->mem.p;
	const unsigned char *want = (unsigned char *)self->model;
	size_t i;

	for (i = 0; i < self->mem.size; i++) {
		if (is[i] == want[i])
			continue;
		snprintf(wrong, sizeof(wrong),
			 "page %zu byte %zu is %#x, expected %#x",
			 i / page_size(), i % page_size(), is[i], want[i]);
		return wrong;
	}
	return NULL;
}

static long run_batch(FIXTURE_DATA(atomic) *self, unsigned int more_flags)
{
	return dev_atomic(&self->dev, self->ops, self->nr_ops,
			  self->flags | more_flags, 0);
}

/* All operations of the batch are done, and nobody took a page meanwhile. */
#define expect_done(self, flags)					\
do {									\
	ASSERT_EQ((self)->nr_ops, run_batch(self, flags));		\
	expect_claim(check_ops(self, (self)->nr_ops, 0));		\
	expect_nothing_taken(&(self)->dev, &(self)->mem);		\
} while (0)

/*
 * The batch stops at the operation that should not get done; if that is the
 * first, the call says why. A new batch begins.
 */
#define expect_stop(self, done, error)					\
do {									\
	ASSERT_EQ((done) ?: (error), run_batch(self, 0));		\
	expect_claim(check_ops(self, done, error));			\
	expect_nothing_taken(&(self)->dev, &(self)->mem);		\
	(self)->nr_ops = 0;						\
} while (0)

/* A batch of one, which must be refused. */
#define expect_refused(self, op, width, p, error)			\
do {									\
	add_undone(self, p, op, width, 1, 0);				\
	expect_stop(self, 0, error);					\
} while (0)

/*
 * The end of a test: the CPU gets back the pages that the device holds, and
 * finds what the model says there and everywhere else.
 */
#define expect_memory(self, first, pages)				\
do {									\
	expect_held(&(self)->dev, &(self)->mem, first, pages);		\
	expect_claim(check_model(self));				\
	expect_taken(&(self)->dev, &(self)->mem, first, pages,		\
		     cause_of_fault(&(self)->dev));			\
	expect_entries(&(self)->mem, 0, PAGES, ENTRY_PRESENT);		\
	expect_references(&(self)->dev, &(self)->mem);			\
} while (0)

/* What the operations compute */

static void run_edge_cases(struct __test_metadata *_metadata,
			   FIXTURE_DATA(atomic) *self, unsigned int op)
{
	unsigned int n;

	for (n = 0; n < EDGE_CASES; n++)
		add_edge_case(self, op, n);
	acquire_pages(&self->dev, &self->mem, 0, PAGES);
	expect_done(self, 0);
	expect_memory(self, 0, PAGES);
}

TEST_F(atomic, add)
{
	run_edge_cases(_metadata, self, DEVEXCL_OP_ADD);
}

TEST_F(atomic, sub)
{
	run_edge_cases(_metadata, self, DEVEXCL_OP_SUB);
}

TEST_F(atomic, and)
{
	run_edge_cases(_metadata, self, DEVEXCL_OP_AND);
}

TEST_F(atomic, or)
{
	run_edge_cases(_metadata, self, DEVEXCL_OP_OR);
}

TEST_F(atomic, xor)
{
	run_edge_cases(_metadata, self, DEVEXCL_OP_XOR);
}

TEST_F(atomic, xchg)
{
	run_edge_cases(_metadata, self, DEVEXCL_OP_XCHG);
}

TEST_F(atomic, cmpxchg)
{
	run_edge_cases(_metadata, self, DEVEXCL_OP_CMPXCHG);
}

TEST_F(atomic, umin)
{
	run_edge_cases(_metadata, self, DEVEXCL_OP_UMIN);
}

TEST_F(atomic, umax)
{
	run_edge_cases(_metadata, self, DEVEXCL_OP_UMAX);
}

TEST_F(atomic, smin)
{
	run_edge_cases(_metadata, self, DEVEXCL_OP_SMIN);
}

TEST_F(atomic, smax)
{
	run_edge_cases(_metadata, self, DEVEXCL_OP_SMAX);
}

TEST_F(atomic, inc_wrap)
{
	run_edge_cases(_metadata, self, DEVEXCL_OP_INC_WRAP);
}

TEST_F(atomic, dec_wrap)
{
	run_edge_cases(_metadata, self, DEVEXCL_OP_DEC_WRAP);
}

/* A device that learns a new operation needs a new test. */
TEST_F(atomic, all_operations_known)
{
	EXPECT_EQ((1ULL << DEVEXCL_OP_NR) - 1, self->dev.info.ops);
}

/* Where they work */

/* All operations of a width on the word at @p. */
static void add_all_operations(FIXTURE_DATA(atomic) *self, const char *p,
			       unsigned int width)
{
	unsigned int op;

	for (op = 0; op < DEVEXCL_OP_NR; op++)
		add_random_operand(self, p, op, width);
}

TEST_F(atomic, every_offset_of_a_cache_line)
{
	const char *line = page_of(&self->mem, 1) + 5 * CACHE_LINE;
	size_t i, offset;

	self->random = random_seed();
	for (i = 0; i < ARRAY_SIZE(widths); i++)
		for (offset = 0; offset < CACHE_LINE; offset += widths[i])
			add_all_operations(self, line + offset, widths[i]);
	acquire_pages(&self->dev, &self->mem, 0, PAGES);
	expect_done(self, 0);
	expect_memory(self, 0, PAGES);
}

TEST_F(atomic, first_and_last_word_of_a_page)
{
	size_t i, page;

	self->random = random_seed();
	for (i = 0; i < ARRAY_SIZE(widths); i++) {
		for (page = 0; page < PAGES; page++) {
			const char *p = page_of(&self->mem, page);

			add_all_operations(self, p, widths[i]);
			p += page_size() - widths[i];
			add_all_operations(self, p, widths[i]);
		}
	}
	acquire_pages(&self->dev, &self->mem, 0, PAGES);
	expect_done(self, 0);
	expect_memory(self, 0, PAGES);
}

TEST_F(atomic, misaligned)
{
	const char *p = page_of(&self->mem, 1) + CACHE_LINE;
	size_t i, offset;

	acquire_pages(&self->dev, &self->mem, 0, PAGES);
	for (i = 0; i < ARRAY_SIZE(widths); i++)
		for (offset = 0; offset < 2 * widths[i]; offset++)
			if (offset % widths[i])
				expect_refused(self, DEVEXCL_OP_ADD, widths[i],
					       p + offset, -EINVAL);
	expect_memory(self, 0, PAGES);
}

/* The device holds both pages, and yet. */
TEST_F(atomic, across_two_pages)
{
	const char *p = page_of(&self->mem, 1);
	size_t i, before;

	acquire_pages(&self->dev, &self->mem, 0, PAGES);
	for (i = 0; i < ARRAY_SIZE(widths); i++)
		for (before = 1; before < widths[i]; before++)
			expect_refused(self, DEVEXCL_OP_XCHG, widths[i],
				       p - before, -EINVAL);
	expect_memory(self, 0, PAGES);
}

TEST_F(atomic, unknown_operation)
{
	const char *p = page_of(&self->mem, 1);
	unsigned int op;

	acquire_pages(&self->dev, &self->mem, 0, PAGES);
	for (op = DEVEXCL_OP_NR; op < 256; op++)
		expect_refused(self, op, 8, p, -EINVAL);
	expect_memory(self, 0, PAGES);
}

TEST_F(atomic, unknown_width)
{
	const char *p = page_of(&self->mem, 1);
	unsigned int width;

	acquire_pages(&self->dev, &self->mem, 0, PAGES);
	for (width = 0; width < 256; width++)
		if (width != 1 && width != 2 && width != 4 && width != 8)
			expect_refused(self, DEVEXCL_OP_ADD, width, p, -EINVAL);
	expect_memory(self, 0, PAGES);
}

TEST_F(atomic, reserved_field)
{
	const char *p = page_of(&self->mem, 1);
	unsigned int bit;

	acquire_pages(&self->dev, &self->mem, 0, PAGES);
	for (bit = 0; bit < 16; bit++) {
		add_undone(self, p, DEVEXCL_OP_ADD, 8, 1, 0)->reserved =
			1U << bit;
		expect_stop(self, 0, -EINVAL);
	}
	expect_memory(self, 0, PAGES);
}

/* Batches */

/* Each finds what the one before it has left. */
TEST_F(atomic, order_in_a_batch)
{
	const char *p = page_of(&self->mem, 2) + CACHE_LINE;
	size_t n;

	self->random = random_seed();
	for (n = 0; n < SOME_OPS; n++)
		add_random_operand(self, p, random_next(&self->random) %
				   DEVEXCL_OP_NR, 8);
	acquire_pages(&self->dev, &self->mem, 0, PAGES);
	expect_done(self, 0);
	for (n = 1; n < SOME_OPS; n++)
		ASSERT_EQ(model_result(&self->ops[n - 1],
				       self->ops[n - 1].old),
			  self->ops[n].old);
	expect_memory(self, 0, PAGES);
}

TEST_F(atomic, big_batch)
{
	self->random = random_seed();
	add_random_ops(self, PAGES, MAX_OPS);
	acquire_pages(&self->dev, &self->mem, 0, PAGES);
	expect_done(self, 0);
	expect_memory(self, 0, PAGES);
}

/* Pages 0 and 1 in one mirror, page 3 in another, page 2 in none. */
TEST_F(atomic, several_mirrors)
{
	struct mem *mem = &self->mem;
	size_t n;

	self->random = random_seed();
	ASSERT_EQ(0, dev_unmirror(&self->dev, mem->p, mem->size));
	ASSERT_EQ(0, dev_mirror(&self->dev, mem->p, 2 * page_size()));
	ASSERT_EQ(0, dev_mirror(&self->dev, page_of(mem, 3), page_size()));
	acquire_pages(&self->dev, mem, 0, 2);
	acquire_pages(&self->dev, mem, 3, 1);

	for (n = 0; n < SOME_OPS; n++)
		add_random_op(self, n * 3 % 4 == 2 ? 1 : n * 3 % 4);
	add_undone(self, page_of(mem, 2), DEVEXCL_OP_ADD, 8, 1, 0);
	add_undone(self, page_of(mem, 0), DEVEXCL_OP_ADD, 8, 1, 0);
	expect_stop(self, SOME_OPS, -ENXIO);

	ASSERT_EQ(0, dev_mirror(&self->dev, page_of(mem, 2), page_size()));
	acquire_pages(&self->dev, mem, 2, 1);
	expect_memory(self, 0, PAGES);
}

/* A batch that cannot be done to its end, at all places that are special. */
TEST_F(atomic, failure_in_a_batch)
{
	static const size_t places[] = { 1, 2, 63, 64, 65, 127, 128 };
	struct devexcl_stats before, after;
	size_t i;

	self->random = random_seed();
	acquire_pages(&self->dev, &self->mem, 0, PAGES);
	for (i = 0; i < ARRAY_SIZE(places); i++) {
		add_random_ops(self, PAGES, places[i]);
		add_undone(self, self->mem.p, DEVEXCL_OP_ADD, 3, 1, 0);
		while (self->nr_ops < 200)
			add_undone(self, self->mem.p, DEVEXCL_OP_ADD, 8, 1, 0);
		ASSERT_EQ(0, dev_stats(&self->dev, &before));
		expect_stop(self, places[i], -EINVAL);
		ASSERT_EQ(0, dev_stats(&self->dev, &after));
		ASSERT_EQ(before.ops + places[i], after.ops);
		ASSERT_EQ(before.errors[DEVEXCL_ERROR_EINVAL] + 1,
			  after.errors[DEVEXCL_ERROR_EINVAL]);
	}
	expect_memory(self, 0, PAGES);
}

/* The first one fails, and the others are not done. */
TEST_F(atomic, failure_at_once)
{
	acquire_pages(&self->dev, &self->mem, 0, 1);
	add_undone(self, self->mem.p, DEVEXCL_OP_NR, 8, 1, 0);
	add_undone(self, self->mem.p, DEVEXCL_OP_ADD, 8, 1, 0);
	expect_stop(self, 0, -EINVAL);
	add_undone(self, &self->random, DEVEXCL_OP_ADD, 8, 1, 0);
	add_undone(self, self->mem.p, DEVEXCL_OP_ADD, 8, 1, 0);
	expect_stop(self, 0, -ENXIO);
	add_undone(self, page_of(&self->mem, 1), DEVEXCL_OP_ADD, 8, 1, 0);
	add_undone(self, self->mem.p, DEVEXCL_OP_ADD, 8, 1, 0);
	expect_stop(self, 0, -EACCES);
	expect_memory(self, 0, 1);
}

/* Copy the batch to the pages from 2 on; the results come back from there. */
static struct devexcl_atomic_op *put_ops(FIXTURE_DATA(atomic) *self)
{
	return memcpy(page_of(&self->mem, 2), self->ops,
		      self->nr_ops * sizeof(*self->ops));
}

static void get_ops(FIXTURE_DATA(atomic) *self)
{
	size_t size = self->nr_ops * sizeof(*self->ops);

	memcpy(self->ops, page_of(&self->mem, 2), size);
	memcpy(page_of(&self->mem, 2), self->model + 2 * page_size(), size);
}

/*
 * The device holds the array that tells it what to do. To read it is to give
 * it back; the pages that it works on stay.
 */
TEST_F(atomic, array_in_exclusive_pages)
{
	struct devexcl_atomic_op *ops;

	self->random = random_seed();
	while (self->nr_ops * sizeof(*ops) <= page_size())
		add_random_ops(self, 2, 1);
	ops = put_ops(self);
	acquire_pages(&self->dev, &self->mem, 0, PAGES);
	ASSERT_EQ(self->nr_ops, dev_atomic(&self->dev, ops, self->nr_ops,
					   self->flags, 0));
	expect_taken(&self->dev, &self->mem, 2, 2, cause_of_fault(&self->dev));
	get_ops(self);
	expect_claim(check_ops(self, self->nr_ops, 0));
	expect_memory(self, 0, 2);
}

/* The words to work on are in the array's own pages. */
TEST_F(atomic, array_beside_its_words)
{
	uint64_t *end = word_of(&self->mem, 2) + 2 * page_size() / 8;
	struct devexcl_atomic_op *ops;

	self->random = random_seed();
	while (self->nr_ops * sizeof(*ops) <= page_size())
		add_random_operand(self, end - 1 - self->nr_ops % CACHE_LINE,
				   self->nr_ops % DEVEXCL_OP_NR, 8);
	ops = put_ops(self);
	acquire_pages(&self->dev, &self->mem, 2, 2);
	ASSERT_EQ(self->nr_ops,
		  dev_atomic(&self->dev, ops, self->nr_ops,
			     self->flags | DEVEXCL_ATOMIC_ACQUIRE, 0));
	get_ops(self);
	expect_claim(check_ops(self, self->nr_ops, 0));
	expect_claim(check_model(self));
	expect_references(&self->dev, &self->mem);
}

TEST_F(atomic, gap_limits)
{
	struct devexcl_atomic_op *ops = self->ops;
	unsigned int max = self->dev.info.max_gap_ns;
	struct dev *dev = &self->dev;

	acquire_pages(dev, &self->mem, 0, PAGES);
	add_op(self, self->mem.p, DEVEXCL_OP_ADD, 8, 1, 0);
	EXPECT_EQ(-EINVAL, dev_atomic(dev, ops, 1, 0, 1));
	EXPECT_EQ(-EINVAL, dev_atomic(dev, ops, 1, DEVEXCL_ATOMIC_ACQUIRE, 1));
	EXPECT_EQ(-EINVAL,
		  dev_atomic(dev, ops, 1, DEVEXCL_ATOMIC_GAP, max + 1));
	EXPECT_EQ(-EINVAL, dev_atomic(dev, ops, 1, DEVEXCL_ATOMIC_GAP, -1U));
	EXPECT_EQ(UNTOUCHED, ops[0].old);
	EXPECT_EQ(1, dev_atomic(dev, ops, 1, DEVEXCL_ATOMIC_GAP, max));
	expect_claim(check_ops(self, 1, 0));
	expect_memory(self, 0, PAGES);
}

/* Having the page */

/* The pages that the device acquired, in this order, and nothing else. */
static const char *check_acquired(struct dev *dev, const struct mem *mem,
				  const size_t *pages, size_t nr)
{
	struct devexcl_event event;
	size_t n = 0;

	while (dev_read_events(dev, &event, 1) > 0) {
		if (event.type == DEVEXCL_EVENT_INVALIDATE &&
		    event.owner == DEVEXCL_OWNER_OWN)
			continue;
		if (event.type != DEVEXCL_EVENT_ACQUIRE || n == nr)
			return "something else happened than what should";
		if (event.start != (uintptr_t)page_of(mem, pages[n]) ||
		    event.end != event.start + page_size())
			return "another page was acquired, or more than it";
		n++;
	}
	return n == nr ? NULL : "fewer pages were acquired";
}

/* As a device fault would: one page after the other, as they are needed. */
TEST_F(atomic, acquired_on_demand)
{
	static const size_t pages[] = { 3, 0, 1 };
	size_t i;

	self->random = random_seed();
	for (i = 0; i < ARRAY_SIZE(pages); i++) {
		add_random_op(self, pages[i]);
		add_random_op(self, pages[i]);
	}
	ASSERT_EQ(self->nr_ops, run_batch(self, DEVEXCL_ATOMIC_ACQUIRE));
	expect_claim(check_ops(self, self->nr_ops, 0));
	expect_claim(check_acquired(&self->dev, &self->mem, pages,
				    ARRAY_SIZE(pages)));
	expect_held(&self->dev, &self->mem, 3, 1);
	expect_not_held(&self->dev, &self->mem, 2, 1);
	expect_entries(&self->mem, 2, 1, ENTRY_PRESENT);
	READ_MEM(word_of(&self->mem, 3));
	expect_taken(&self->dev, &self->mem, 3, 1, cause_of_fault(&self->dev));
	expect_memory(self, 0, 2);
}

TEST_F(atomic, refused_after_cpu_touch)
{
	acquire_pages(&self->dev, &self->mem, 0, PAGES);
	READ_MEM(word_of(&self->mem, 1));
	expect_taken(&self->dev, &self->mem, 1, 1, cause_of_fault(&self->dev));
	expect_refused(self, DEVEXCL_OP_ADD, 8, page_of(&self->mem, 1),
		       -EACCES);

	add_op(self, page_of(&self->mem, 0), DEVEXCL_OP_ADD, 8, 1, 0);
	add_undone(self, page_of(&self->mem, 1), DEVEXCL_OP_ADD, 8, 1, 0);
	add_undone(self, page_of(&self->mem, 2), DEVEXCL_OP_ADD, 8, 1, 0);
	expect_stop(self, 1, -EACCES);

	add_op(self, page_of(&self->mem, 1), DEVEXCL_OP_ADD, 8, 1, 0);
	expect_done(self, DEVEXCL_ATOMIC_ACQUIRE);
	expect_memory(self, 0, PAGES);
}

/* Nobody has touched the page since, but it is not the device's any more. */
TEST_F(atomic, refused_after_release)
{
	acquire_pages(&self->dev, &self->mem, 0, PAGES);
	ASSERT_EQ(1, dev_release(&self->dev, page_of(&self->mem, 3), 1));
	expect_refused(self, DEVEXCL_OP_ADD, 8, page_of(&self->mem, 3),
		       -EACCES);
	expect_entries(&self->mem, 3, 1, ENTRY_EXCLUSIVE);
	expect_memory(self, 0, 3);
}

/* The device may access the page as everybody may, which is not enough. */
static void run_on_shared_page(struct __test_metadata *_metadata,
			       FIXTURE_DATA(atomic) *self, unsigned int write)
{
	uint64_t *word = word_of(&self->mem, 1), value = *word;
	struct devexcl_page info;

	ASSERT_EQ(8, dev_copy(&self->dev, word, &value, 8, write));
	ASSERT_EQ(0, dev_query(&self->dev, word, 1, &info));
	EXPECT_EQ(write ? DEVEXCL_ACCESS_READ | DEVEXCL_ACCESS_WRITE |
			  DEVEXCL_ACCESS_DIRTY : DEVEXCL_ACCESS_READ,
		  info.access);
	expect_refused(self, DEVEXCL_OP_ADD, 8, word, -EACCES);
	expect_entries(&self->mem, 0, PAGES, ENTRY_PRESENT);

	add_op(self, word, DEVEXCL_OP_ADD, 8, 1, 0);
	expect_done(self, DEVEXCL_ATOMIC_ACQUIRE);
	expect_memory(self, 1, 1);
}

TEST_F(atomic, refused_on_page_mapped_for_reading)
{
	run_on_shared_page(_metadata, self, 0);
}

TEST_F(atomic, refused_on_page_mapped_for_writing)
{
	run_on_shared_page(_metadata, self, DEVEXCL_COPY_WRITE);
}

/* CPU and device in turn, each finds what the other left. */
TEST_F(atomic, ping_pong)
{
	uint64_t *word = word_of(&self->mem, 1);
	uint64_t seen, want = *word;
	struct taken taken;
	int i;

	add_undone(self, word, DEVEXCL_OP_ADD, 8, 3, 0);
	for (i = 1; i <= ROUNDS; i++) {
		ASSERT_EQ(1, run_batch(self, DEVEXCL_ATOMIC_ACQUIRE));
		ASSERT_EQ(want, self->ops[0].old);
		seen = __atomic_fetch_add(word, 5, __ATOMIC_SEQ_CST);
		ASSERT_EQ(want + 3, seen);
		want += 3 + 5;
		if (i % ROUNDS_A_LOOK)
			continue;
		ASSERT_EQ(0, dev_taken(&self->dev, &taken));
		ASSERT_EQ(0, taken.lost);
		ASSERT_EQ(ROUNDS_A_LOOK, taken.acquired);
		ASSERT_EQ(ROUNDS_A_LOOK, taken.exclusive);
		ASSERT_EQ(ROUNDS_A_LOOK, taken.calls);
		ASSERT_EQ(cause_of_fault(&self->dev), taken.causes);
		ASSERT_EQ((uintptr_t)word, taken.first);
		ASSERT_EQ((uintptr_t)word + page_size(), taken.last);
	}
	model_store(self, (uintptr_t)word, 8, want);
	expect_claim(check_model(self));
	expect_references(&self->dev, &self->mem);
}

/* The device knows that it wrote to a page since it got it. */
#define EXCLUSIVE_ACCESS						\
	(DEVEXCL_ACCESS_READ | DEVEXCL_ACCESS_WRITE | DEVEXCL_ACCESS_EXCLUSIVE)

static unsigned int access_of(struct dev *dev, const void *p)
{
	struct devexcl_page info;

	return dev_query(dev, p, 1, &info) ? 0 : info.access;
}

TEST_F(atomic, dirty_after_a_write)
{
	const char *p = page_of(&self->mem, 1);

	acquire_pages(&self->dev, &self->mem, 0, PAGES);
	EXPECT_EQ(EXCLUSIVE_ACCESS, access_of(&self->dev, p));
	expect_refused(self, DEVEXCL_OP_ADD, 8, p + 1, -EINVAL);
	EXPECT_EQ(EXCLUSIVE_ACCESS, access_of(&self->dev, p));

	add_op(self, p, DEVEXCL_OP_ADD, 8, 1, 0);
	expect_done(self, 0);
	EXPECT_EQ(EXCLUSIVE_ACCESS | DEVEXCL_ACCESS_DIRTY,
		  access_of(&self->dev, p));
	EXPECT_EQ(EXCLUSIVE_ACCESS,
		  access_of(&self->dev, p + page_size()));

	/* It is clean again when the device gets it anew. */
	ASSERT_EQ(1, dev_release(&self->dev, p, 1));
	acquire_pages(&self->dev, &self->mem, 1, 1);
	EXPECT_EQ(EXCLUSIVE_ACCESS, access_of(&self->dev, p));
	expect_memory(self, 0, PAGES);
}

/* Several threads use one context */

#define THREAD_OPS	300
#define THREAD_GAP_NS	(30 * 1000)	/* the device sleeps */

/**
 * struct adder - a thread that has the device add
 * @dev: the device
 * @p: to this word, in a page that the device holds
 * @flags: in this mode
 * @other: at least until this one has done enough, too
 * @done: how often it was done, or -errno
 * @enough: it was done at least THREAD_OPS times, or cannot be
 */
struct adder {
	struct dev *dev;
	uint64_t *p;
	unsigned int flags;
	struct adder *other;
	long done;
	bool enough;
};

static void *run_adder(void *arg)
{
	struct devexcl_atomic_op ops[THREAD_OPS];
	struct adder *adder = arg;
	long done;
	size_t i;

	for (i = 0; i < THREAD_OPS; i++)
		ops[i] = (struct devexcl_atomic_op) {
			.addr = (uintptr_t)adder->p,
			.op = DEVEXCL_OP_ADD,
			.operand = 1,
			.width = 8,
		};
	do {
		done = dev_atomic(adder->dev, ops, THREAD_OPS, adder->flags,
				  adder->flags ? THREAD_GAP_NS : 0);
		adder->done = done < 0 ? done : adder->done + done;
		__atomic_store_n(&adder->enough, true, __ATOMIC_SEQ_CST);
	} while (done > 0 &&
		 !__atomic_load_n(&adder->other->enough, __ATOMIC_SEQ_CST));
	return NULL;
}

/*
 * One thread in gap mode, one in the variant's mode: operations of one context
 * do not come between each other. That is the device's job, not the kernel's.
 */
TEST_F(atomic, threads_of_one_context)
{
	uint64_t *word = word_of(&self->mem, 1), start = *word;
	struct adder adders[] = {
		{ &self->dev, word, DEVEXCL_ATOMIC_GAP, &adders[1], 0, false },
		{ &self->dev, word, self->flags, &adders[0], 0, false },
	};
	pthread_t threads[2];
	int i;

	acquire_pages(&self->dev, &self->mem, 0, PAGES);
	for (i = 0; i < 2; i++)
		ASSERT_EQ(0, pthread_create(&threads[i], NULL, run_adder,
					    &adders[i]));
	for (i = 0; i < 2; i++) {
		ASSERT_EQ(0, pthread_join(threads[i], NULL));
		EXPECT_LE(THREAD_OPS, adders[i].done);
	}
	expect_nothing_taken(&self->dev, &self->mem);
	model_store(self, (uintptr_t)word, 8,
		    start + adders[0].done + adders[1].done);
	expect_memory(self, 0, PAGES);
}

DEVEXCL_TEST_MAIN
