// SPDX-License-Identifier: GPL-2.0
/*
 * Oracles: what CPUs, devices and engines build together, and what can be
 * counted afterwards
 *
 * An oracle is a row: tokens that are passed on, a lock, a hash table without
 * locks, words that all want to get on with. Parties do the same to it, each in
 * its own way: a CPU by instructions, a device by ATOMIC, an engine by jobs. A
 * column says who takes part, and what disturbs them. Devices load and store
 * with a gap in between: a moment without exclusivity is an update lost.
 *
 * Nobody works for a certain time. A party ends when all have done what they
 * have to. If devices get pages again and again and somebody does not get on,
 * that one is kept from working, and the counters of all are the failure.
 */
#include <limits.h>
#include <pthread.h>
#include <sched.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "../kselftest.h"
#include "devexcl_cells.h"

#ifndef MPOL_MF_MOVE
#define MPOL_MF_MOVE	2
#endif

#define PAGES		8
#define MAX_PARTIES	5
#define LINE_WORDS	8	/* words of a cache line, more or less */

#define GAP_NS		2000
#define MAX_ROUNDS	2000	/* pages acquired without a step of somebody */
#define LOOK_EVERY	16	/* steps between two looks whether all get on */
#define MAX_REFUSED	2000	/* so often in a row a device may be refused */
#define MIN_DISTURBED	3	/* disturbances at least */

struct party;
struct contest;

/**
 * struct oracle - a row
 * @name: its name
 * @words: words that it is about, from the first page on
 * @share: of its goal that a party has to reach here; a step is long
 * @unfair: who has reached its goal lets the others come first
 * @step: a party does its work once
 * @judge: what it has come to
 */
struct oracle {
	const char *name;
	size_t words;
	unsigned int share;
	bool unfair;
	void (*step)(struct party *party);
	const char *(*judge)(struct contest *contest);
};

/* Who takes part. */
enum kind {
	NOBODY,
	CPU,
	DEVICE,		/* ATOMIC of the first device */
	OTHER,		/* ... of the second one */
	ENGINE,		/* a job of an engine of the first device */
	OTHER_ENGINE,	/* ... of the second one */
};

/**
 * struct setting - a column
 * @name: its name
 * @kinds: who takes part
 * @plain: devices work by single instructions, without a gap
 * @large: in a large folio
 * @disturb: done again and again meanwhile: NULL or why it is impossible
 */
struct setting {
	const char *name;
	enum kind kinds[MAX_PARTIES];
	bool plain;
	bool large;
	const char *(*disturb)(struct contest *contest, unsigned long round);
};

/**
 * struct party - one who takes part
 * @contest: in this
 * @kind: who it is
 * @dev: with this device, or NULL
 * @thread: itself
 * @random: state of its random numbers
 * @goal: how often it must have done its work
 * @done: how often it has
 * @refused: times that a device had to be asked again
 * @error: negative errno that ended it
 * @wrong: what it has found to be wrong; or NULL
 * @seen: how often it had when that was last looked at
 * @seen_at: pages acquired by then, if it has done anything since
 * @token: that it holds
 * @nodes: that it has used
 */
struct party {
	struct contest *contest;
	enum kind kind;
	struct dev *dev;
	pthread_t thread;
	uint64_t random;
	unsigned long goal;
	unsigned long done;
	unsigned long refused;
	int error;
	const char *wrong;
	unsigned long seen;
	uint64_t seen_at;
	uint64_t token;
	size_t nodes;
};

/**
 * struct contest - an oracle in a setting
 * @oracle: the row
 * @setting: the column
 * @device: the two devices
 * @mem: the memory
 * @map: what @mem is a part of, if that is large
 * @party: who takes part
 * @nr: how many
 * @working: how many have not reached their goal
 * @disturbed: disturbances so far
 * @start: all begin at once
 * @looking: one of them looks whether all get on
 * @livelock: somebody was kept from working
 * @livelock_text: the counters of all at that moment
 */
struct contest {
	const struct oracle *oracle;
	const struct setting *setting;
	struct dev device[2];
	struct mem mem;
	char *map;
	struct party party[MAX_PARTIES];
	size_t nr;
	unsigned int working;
	unsigned long disturbed;
	pthread_barrier_t start;
	bool looking;
	bool livelock;
	char livelock_text[360];
};

/* What parties can do */

static const char * const kind_names[] = {
	[CPU] = "CPU",
	[DEVICE] = "device 0",
	[OTHER] = "device 1",
	[ENGINE] = "engine of device 0",
	[OTHER_ENGINE] = "engine of device 1",
};

static unsigned int goal_of(enum kind kind)
{
	switch (kind) {
	case CPU:
		return 100;
	case ENGINE:
	case OTHER_ENGINE:
		return 8;
	default:
		return 20;
	}
}

/* Is this an errno for which one asks again? If it is so all the time, not. */
static bool is_refused(struct party *party, long error, unsigned int times)
{
	if (error >= 0)
		return false;
	party->refused++;
	if ((error == -EBUSY || error == -EINTR) && times < MAX_REFUSED)
		return true;
	party->error = error;
	return false;
}

static void device_does(struct party *party, struct devexcl_atomic_op *ops,
			size_t nr)
{
	bool gap = !party->contest->setting->plain;
	unsigned int times = 0;
	size_t done = 0;
	long ret;

	while (done < nr && !party->error) {
		ret = dev_atomic(party->dev, ops + done, nr - done,
				 DEVEXCL_ATOMIC_ACQUIRE |
				 (gap ? DEVEXCL_ATOMIC_GAP : 0),
				 gap ? GAP_NS : 0);
		if (ret > 0)
			done += ret;
		else if (!is_refused(party, ret, times++))
			break;
	}
}

static long try_engine(struct party *party, struct devexcl_atomic_op *op)
{
	bool gap = !party->contest->setting->plain;
	struct devexcl_submit job = {
		.flags = DEVEXCL_SUBMIT_ACQUIRE |
			 (gap ? DEVEXCL_SUBMIT_GAP : 0),
		.gap_ns = gap ? GAP_NS : 0,
		.addr = op->addr,
		.length = op->width,
		.count = 1,
		.repeat = 1,
		.operand = op->operand,
		.compare = op->compare,
		.op = op->op,
		.width = op->width,
		.engine = DEVEXCL_ENGINE_ANY,
	};
	struct devexcl_wait result;
	long id, ret;

	id = dev_submit(party->dev, &job);
	if (id < 0)
		return id;
	ret = dev_wait(party->dev, id, DEVEXCL_WAIT_FOREVER, &result);
	op->old = result.last;
	return ret ?: result.status;
}

static void engine_does(struct party *party, struct devexcl_atomic_op *ops,
			size_t nr)
{
	unsigned int times = 0;
	size_t i = 0;
	long ret;

	while (i < nr && !party->error) {
		ret = try_engine(party, &ops[i]);
		if (!ret)
			i++;
		else if (!is_refused(party, ret, times++))
			break;
	}
}

static void cpu_does(struct devexcl_atomic_op *op)
{
	uint64_t *p = (uint64_t *)(uintptr_t)op->addr;

	switch (op->op) {
	case DEVEXCL_OP_ADD:
		op->old = __atomic_fetch_add(p, op->operand, __ATOMIC_SEQ_CST);
		break;
	case DEVEXCL_OP_XCHG:
		op->old = __atomic_exchange_n(p, op->operand, __ATOMIC_SEQ_CST);
		break;
	case DEVEXCL_OP_CMPXCHG:
		op->old = op->compare;
		__atomic_compare_exchange_n(p, &op->old, op->operand, false,
					    __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);
		break;
	}
}

/* Carry out some operations, one after the other. */
static void party_does(struct party *party, struct devexcl_atomic_op *ops,
		       size_t nr)
{
	size_t i;

	switch (party->kind) {
	case DEVICE:
	case OTHER:
		device_does(party, ops, nr);
		break;
	case ENGINE:
	case OTHER_ENGINE:
		engine_does(party, ops, nr);
		break;
	default:
		for (i = 0; i < nr; i++)
			cpu_does(&ops[i]);
		break;
	}
}

static struct devexcl_atomic_op atomic_op(enum devexcl_op op, uint64_t *p,
					  uint64_t operand, uint64_t compare)
{
	return (struct devexcl_atomic_op) {
		.op = op,
		.addr = (uintptr_t)p,
		.operand = operand,
		.compare = compare,
		.width = sizeof(*p),
	};
}

/* One operation. Return: the old value. */
static uint64_t party_atomic(struct party *party, enum devexcl_op type,
			     uint64_t *p, uint64_t operand, uint64_t compare)
{
	struct devexcl_atomic_op op = atomic_op(type, p, operand, compare);

	party_does(party, &op, 1);
	return op.old;
}

/* Ordinary access, which is not atomic; a device does not need the page. */
static uint64_t party_reads(struct party *party, uint64_t *p)
{
	unsigned int times = 0;
	uint64_t value = 0;
	int ret;

	if (!party->dev)
		return READ_MEM(p);
	do {
		ret = dev_read_word(party->dev, p, &value);
	} while (is_refused(party, ret, times++));
	return value;
}

static void party_writes(struct party *party, uint64_t *p, uint64_t value)
{
	unsigned int times = 0;
	int ret;

	if (!party->dev) {
		WRITE_MEM(p, value);
		return;
	}
	do {
		ret = dev_write_word(party->dev, p, value);
	} while (is_refused(party, ret, times++));
}

static uint64_t *word_at(struct contest *contest, size_t n)
{
	return (uint64_t *)contest->mem.p + n;
}

static size_t number_of(const struct party *party)
{
	return party - party->contest->party;
}

/* Sums: each adds to words of all; the sum is how often they did. */

static void sum_step(struct party *party)
{
	size_t n = random_next(&party->random) % party->contest->oracle->words;

	party_atomic(party, DEVEXCL_OP_ADD, word_at(party->contest, n), 1, 0);
}

static const char *sum_judge(struct contest *contest)
{
	uint64_t sum = 0, done = 0;
	size_t n;

	for (n = 0; n < contest->oracle->words; n++)
		sum += READ_MEM(word_at(contest, n));
	for (n = 0; n < contest->nr; n++)
		done += contest->party[n].done;
	if (sum == done)
		return NULL;
	return fail("%llu additions make a sum of %llu",
		    (unsigned long long)done, (unsigned long long)sum);
}

/* Tokens: each has one, and changes it for another that lies somewhere. */

static void token_step(struct party *party)
{
	size_t n = random_next(&party->random) % party->contest->oracle->words;
	uint64_t found;

	/* Places begin with nothing, which is a token for the place. */
	found = party_atomic(party, DEVEXCL_OP_XCHG,
			     word_at(party->contest, n), party->token, 0);
	if (!party->error)
		party->token = found;
}

static uint64_t token_of(struct contest *contest, size_t n)
{
	size_t words = contest->oracle->words;

	return n < words ? READ_MEM(word_at(contest, n)) :
			   contest->party[n - words].token;
}

static const char *token_judge(struct contest *contest)
{
	size_t all = contest->oracle->words + contest->nr;
	unsigned int found[MAX_PARTIES + 1] = {}, n;

	for (n = 0; n < all; n++) {
		uint64_t token = token_of(contest, n);

		if (token > contest->nr)
			return fail("there is a token %#llx, of which nobody knows",
				    (unsigned long long)token);
		found[token]++;
	}
	for (n = 1; n <= contest->nr; n++)
		if (found[n] != 1)
			return fail("the token of party %u (%s) is there %u times",
				    n - 1, kind_names[contest->party[n - 1].kind],
				    found[n]);
	return NULL;
}

/*
 * A lock: who has it counts in the ordinary way. The lock and the number of its
 * owner are in one page, what it protects is in another.
 */
#define LOCK		0
#define OWNER		LINE_WORDS

static uint64_t *counter_of(struct contest *contest)
{
	return word_of(&contest->mem, 1);
}

static bool take_lock(struct party *party)
{
	uint64_t *lock = word_at(party->contest, LOCK);
	unsigned int times;

	for (times = 0; times < 64 && !party->error; times++) {
		if (!party_atomic(party, DEVEXCL_OP_CMPXCHG, lock,
				  number_of(party) + 1, 0))
			return !party->error;
		sched_yield();
	}
	return false;
}

static void lock_step(struct party *party)
{
	uint64_t *owner = word_at(party->contest, OWNER);
	uint64_t *counter = counter_of(party->contest);
	uint64_t me = number_of(party) + 1;

	if (!take_lock(party)) {
		party->done--;	/* it was not its turn */
		return;
	}
	if (party_reads(party, owner))
		party->wrong = "the lock was taken by two";
	party_writes(party, owner, me);
	party_writes(party, counter, party_reads(party, counter) + 1);
	if (party_reads(party, owner) != me)
		party->wrong = "somebody else had the lock meanwhile";
	party_writes(party, owner, 0);
	if (party_atomic(party, DEVEXCL_OP_XCHG, word_at(party->contest, LOCK),
			 0, 0) != me)
		party->wrong = "the lock was not its owner's any more";
}

static const char *lock_judge(struct contest *contest)
{
	uint64_t counter = READ_MEM(counter_of(contest)), done = 0;
	size_t n;

	for (n = 0; n < contest->nr; n++)
		done += contest->party[n].done;
	if (READ_MEM(word_at(contest, LOCK)))
		return fail("the lock is still taken");
	if (counter == done)
		return NULL;
	return fail("the lock was taken %llu times, and what it protects says %llu",
		    (unsigned long long)done, (unsigned long long)counter);
}

/*
 * A hash table of lists, into which all insert at the head. The words are the
 * bins; nodes come from a page of each party's own, until there are no more.
 */
struct node {
	uint64_t next;
	uint64_t key;
};

#define NODES	(page_size() / sizeof(struct node))

static struct node *node_at(struct contest *contest, size_t party, size_t n)
{
	return (struct node *)page_of(&contest->mem, 1 + party) + n;
}

static uint64_t *bin_of(struct contest *contest, uint64_t key)
{
	return word_at(contest, key % contest->oracle->words);
}

static uint64_t key_of(size_t party, size_t n)
{
	return pattern_word(party, n);
}

static void table_step(struct party *party)
{
	struct contest *contest = party->contest;
	uint64_t key = key_of(number_of(party), party->nodes);
	struct node *node;
	uint64_t *bin = bin_of(contest, key), head = 0, found;

	if (party->nodes == NODES)
		return;
	node = node_at(contest, number_of(party), party->nodes);
	party_writes(party, &node->key, key);
	for (;;) {
		struct devexcl_atomic_op ops[] = {
			atomic_op(DEVEXCL_OP_XCHG, &node->next, head, 0),
			atomic_op(DEVEXCL_OP_CMPXCHG, bin, (uintptr_t)node,
				  head),
		};

		party_does(party, ops, ARRAY_SIZE(ops));
		if (party->error)
			return;
		found = ops[1].old;
		if (found == head)
			break;
		head = found;
	}
	party->nodes++;
}

/* Whose node it is, and which; false if it is none. */
static bool find_node(struct contest *contest, uint64_t p, size_t *party,
		      size_t *n)
{
	uint64_t first = (uintptr_t)node_at(contest, 0, 0);
	size_t number = (p - first) / sizeof(struct node);

	*party = number / NODES;
	*n = number % NODES;
	return p >= first && !((p - first) % sizeof(struct node)) &&
	       *party < contest->nr && *n < contest->party[*party].nodes;
}

static const char *judge_bin(struct contest *contest, size_t bin,
			     unsigned char *seen)
{
	uint64_t p = READ_MEM(word_at(contest, bin));
	size_t party, n;

	while (p) {
		const struct node *node = (void *)(uintptr_t)p;

		if (!find_node(contest, p, &party, &n))
			return fail("bin %zu has a node at %#llx, where nobody has put one",
				    bin, (unsigned long long)p);
		if (seen[party * NODES + n]++)
			return fail("node %zu of party %zu was found twice", n,
				    party);
		if (node->key != key_of(party, n) ||
		    bin_of(contest, node->key) != word_at(contest, bin))
			return fail("node %zu of party %zu is in bin %zu with key %#llx",
				    n, party, bin,
				    (unsigned long long)node->key);
		p = node->next;
	}
	return NULL;
}

static const char *table_judge(struct contest *contest)
{
	unsigned char *seen = calloc(MAX_PARTIES, NODES);
	size_t bin, party, n;

	for (bin = 0; bin < contest->oracle->words; bin++)
		TRY(judge_bin(contest, bin, seen));
	for (party = 0; party < contest->nr; party++)
		for (n = 0; n < contest->party[party].nodes; n++)
			if (!seen[party * NODES + n])
				return fail("node %zu of party %zu (%s) is lost",
					    n, party,
					    kind_names[contest->party[party].kind]);
	free(seen);
	return NULL;
}

/* Progress: each has a word, and all words are in one page. */

static void progress_step(struct party *party)
{
	uint64_t *word = word_at(party->contest, number_of(party) * LINE_WORDS);
	uint64_t old = party_atomic(party, DEVEXCL_OP_ADD, word, 1, 0);

	if (!party->error && old != party->done - 1)
		party->wrong = "an addition of its own was lost";
}

static const char *progress_judge(struct contest *contest)
{
	size_t n;

	for (n = 0; n < contest->nr; n++)
		if (READ_MEM(word_at(contest, n * LINE_WORDS)) !=
		    contest->party[n].done)
			return fail("the word of party %zu is not what it has counted",
				    n);
	return NULL;
}

static const struct oracle oracles[] = {
	{ "sum", 4 * LINE_WORDS, 1, false, sum_step, sum_judge },
	{ "tokens", 4, 1, false, token_step, token_judge },
	{ "lock", 1, 4, true, lock_step, lock_judge },
	{ "table_one_bin", 1, 1, false, table_step, table_judge },
	{ "table_one_line", LINE_WORDS, 1, false, table_step, table_judge },
	{ "table_lines", 8 * LINE_WORDS, 1, false, table_step, table_judge },
	{ "progress", MAX_PARTIES * LINE_WORDS, 1, false, progress_step,
	  progress_judge },
};

/* Disturbances */

static const char *have_children(struct contest *contest, unsigned long round)
{
	pid_t pid = fork();

	(void)contest;
	(void)round;
	if (!pid)
		_exit(0);
	if (pid > 0)
		wait_child(pid);
	/* fork() fails where a folio is locked: order.fork.check tells. */
	return NULL;
}

/* Whoever works may do so all the time, but mm has to change all entries. */
static const char *protect(struct contest *contest, unsigned long round)
{
	int prot = PROT_READ | PROT_WRITE | (round % 2 ? 0 : PROT_EXEC);

	return must("mprotect",
		    mprotect(contest->mem.p, contest->mem.size, prot));
}

static const char *page_out(struct contest *contest, unsigned long round)
{
	(void)round;
	return madvise(contest->mem.p, contest->mem.size, MADV_PAGEOUT) ?
	       skip("MADV_PAGEOUT is not offered") : NULL;
}

static const char *migrate(struct contest *contest, unsigned long round)
{
	void *p[PAGES];
	int node[PAGES], status[PAGES];
	size_t n;

	for (n = 0; n < PAGES; n++) {
		p[n] = page_of(&contest->mem, n);
		node[n] = round % 2;
	}
	if (syscall(SYS_move_pages, 0, (unsigned long)PAGES, p, node, status,
		    MPOL_MF_MOVE) < 0)
		return skip("there is no second node");
	return NULL;
}

/* Into small folios, and together again. */
static const char *split_folio(struct contest *contest, unsigned long round)
{
	char *p = contest->map, line[80];

	(void)round;
	snprintf(line, sizeof(line), "%d,%#lx,%#lx", getpid(),
		 (unsigned long)p, (unsigned long)p + thp_size());
	if (write_file("/sys/kernel/debug/split_huge_pages", line))
		return skip("no debugfs to split large folios with");
	/* It does not always work while others work. */
	madvise(p, thp_size(), MADV_COLLAPSE);
	return NULL;
}

#define ALL_KINDS	{ CPU, CPU, DEVICE, OTHER }

static const struct setting settings[] = {
	{ "quiet", ALL_KINDS },
	{ "plain", ALL_KINDS, .plain = true },
	{ "devices", { DEVICE, OTHER } },
	{ "engines", { CPU, DEVICE, ENGINE, OTHER_ENGINE } },
	{ "fork", ALL_KINDS, .disturb = have_children },
	{ "mprotect", ALL_KINDS, .disturb = protect },
	{ "pageout", ALL_KINDS, .disturb = page_out },
	{ "migration", ALL_KINDS, .disturb = migrate },
	{ "split", ALL_KINDS, .large = true, .disturb = split_folio },
	{ "engines_pageout", { CPU, ENGINE, OTHER_ENGINE },
	  .disturb = page_out },
};

/* Running a contest */

static bool is_kept_from_working(const struct party *party)
{
	return __atomic_load_n(&party->done, __ATOMIC_SEQ_CST) < party->goal &&
	       !party->error;
}

/* What each has done, and how it was for the devices. */
static void note_counters(struct contest *contest, char *text, size_t size)
{
	struct devexcl_stats stats;
	size_t used = 0, n;
	uint64_t lost;
	int i;

	for (n = 0; n < contest->nr && used < size; n++) {
		const struct party *party = &contest->party[n];

		used += snprintf(text + used, size - used,
				 "%s %lu of %lu, refused %lu; ",
				 kind_names[party->kind], party->done,
				 party->goal, party->refused);
	}
	for (n = 0; n < 2 && used < size; n++) {
		if (dev_stats(&contest->device[n], &stats))
			continue;
		for (lost = 0, i = 0; i < DEVEXCL_CAUSE_NR; i++)
			lost += stats.lost[i];
		used += snprintf(text + used, size - used,
				 "device %zu acquired %llu, lost %llu, began anew %llu; ",
				 n, (unsigned long long)stats.acquired,
				 (unsigned long long)lost,
				 (unsigned long long)stats.retries);
	}
}

static uint64_t pages_acquired(struct contest *contest)
{
	struct devexcl_stats stats[2];

	if (dev_stats(&contest->device[0], &stats[0]) ||
	    dev_stats(&contest->device[1], &stats[1]))
		return 0;
	return stats[0].acquired + stats[1].acquired;
}

/* Pages have changed hands so often that everybody must have had one. */
static void look_for_livelock(struct contest *contest)
{
	uint64_t now = pages_acquired(contest);
	size_t n;

	if (__atomic_exchange_n(&contest->looking, true, __ATOMIC_SEQ_CST))
		return;
	for (n = 0; n < contest->nr && !contest->livelock; n++) {
		struct party *party = &contest->party[n];

		if (!is_kept_from_working(party) ||
		    party->seen != party->done) {
			party->seen = party->done;
			party->seen_at = now;
		} else if (now > party->seen_at + MAX_ROUNDS) {
			note_counters(contest, contest->livelock_text,
				      sizeof(contest->livelock_text));
			__atomic_store_n(&contest->livelock, true,
					 __ATOMIC_SEQ_CST);
		}
	}
	__atomic_store_n(&contest->looking, false, __ATOMIC_SEQ_CST);
}

static bool must_go_on(struct contest *contest)
{
	if (__atomic_load_n(&contest->livelock, __ATOMIC_SEQ_CST))
		return false;
	return __atomic_load_n(&contest->working, __ATOMIC_SEQ_CST) ||
	       (contest->setting->disturb &&
		__atomic_load_n(&contest->disturbed, __ATOMIC_SEQ_CST) <
		MIN_DISTURBED);
}

static void *run_party(void *arg)
{
	struct party *party = arg;
	struct contest *contest = party->contest;
	bool reached = false;

	pthread_barrier_wait(&contest->start);
	while (must_go_on(contest) && !party->error && !party->wrong) {
		if (reached && contest->oracle->unfair) {
			sched_yield();
			continue;
		}
		if (party->done % LOOK_EVERY == LOOK_EVERY - 1)
			look_for_livelock(contest);
		__atomic_add_fetch(&party->done, 1, __ATOMIC_SEQ_CST);
		contest->oracle->step(party);
		if (!reached && party->done >= party->goal) {
			__atomic_sub_fetch(&contest->working, 1,
					   __ATOMIC_SEQ_CST);
			reached = true;
		}
	}
	if (!reached)
		__atomic_sub_fetch(&contest->working, 1, __ATOMIC_SEQ_CST);
	return NULL;
}

static const char *disturb(struct contest *contest)
{
	const char *wrong = NULL;
	unsigned long round;

	for (round = 0; contest->setting->disturb && !wrong; round++) {
		if (__atomic_load_n(&contest->livelock, __ATOMIC_SEQ_CST) ||
		    (round >= MIN_DISTURBED &&
		     !__atomic_load_n(&contest->working, __ATOMIC_SEQ_CST)))
			break;
		wrong = contest->setting->disturb(contest, round);
		__atomic_add_fetch(&contest->disturbed, 1, __ATOMIC_SEQ_CST);
	}
	__atomic_store_n(&contest->disturbed, ULONG_MAX, __ATOMIC_SEQ_CST);
	return wrong;
}

static void add_party(struct contest *contest, enum kind kind)
{
	struct party *party = &contest->party[contest->nr++];
	bool second = kind == OTHER || kind == OTHER_ENGINE;

	*party = (struct party) {
		.contest = contest,
		.kind = kind,
		.dev = kind == CPU ? NULL : &contest->device[second],
		.goal = goal_of(kind) / contest->oracle->share,
		.random = pattern_word(contest->nr, 0),
		.token = contest->nr,
	};
}

/* The memory is zeros, in base pages or in a large folio. */
static const char *map_memory(struct contest *contest)
{
	struct mem *mem = &contest->mem;
	size_t size = thp_size();
	char *p;

	if (!contest->setting->large) {
		TRY(must("mmap", mem_map(mem, PAGES)));
		memset(mem->p, 0, mem->size);
		return NULL;
	}
	if (!size)
		return skip("no large folios");
	if (!(contest->device[0].info.caps & DEVEXCL_CAP_LARGE_FOLIO))
		return skip("this kernel takes the first page of a large folio only");
	p = mmap(NULL, 2 * size, PROT_READ | PROT_WRITE,
		 MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (p == MAP_FAILED)
		return must("mmap", -1);
	contest->map = (char *)(((uintptr_t)p + size - 1) & -size);
	madvise(contest->map, size, MADV_HUGEPAGE);
	memset(contest->map, 0, size);
	mem->p = contest->map + size / 2;
	mem->pages = PAGES;
	mem->size = PAGES * page_size();
	return NULL;
}

static const char *set_up(struct contest *contest)
{
	size_t n;

	for (n = 0; n < 2; n++) {
		if (n && contest->device[0].info.ndevices < 2)
			return skip("there is one device only");
		TRY(must("open", dev_open(&contest->device[n], n)));
		TRY(break_driver_of(&contest->device[n]));
	}
	TRY(map_memory(contest));
	for (n = 0; n < 2; n++)
		TRY(must("mirror", dev_mirror(&contest->device[n],
					      contest->mem.p,
					      contest->mem.size)));
	for (n = 0; n < MAX_PARTIES && contest->setting->kinds[n]; n++)
		add_party(contest, contest->setting->kinds[n]);
	contest->working = contest->nr;
	errno = pthread_barrier_init(&contest->start, NULL, contest->nr);
	return must("barrier", errno ? -1 : 0);
}

/* Every page that a device got it has lost, let go, or still has. */
static const char *check_books(struct dev *dev)
{
	struct devexcl_stats stats;
	uint64_t gone;
	int i;

	TRY(must("stats", dev_stats(dev, &stats)));
	gone = stats.released + stats.held;
	for (i = 0; i < DEVEXCL_CAUSE_NR; i++)
		gone += stats.lost[i];
	if (gone == stats.acquired)
		return NULL;
	return fail("device %u has acquired %llu pages, and lost or has %llu",
		    dev->info.device, (unsigned long long)stats.acquired,
		    (unsigned long long)gone);
}

static const char *check_parties(struct contest *contest)
{
	size_t n;

	for (n = 0; n < contest->nr; n++) {
		const struct party *party = &contest->party[n];
		char text[300];

		if (party->wrong)
			return fail("%s: %s", kind_names[party->kind],
				    party->wrong);
		if (!party->error)
			continue;
		note_counters(contest, text, sizeof(text));
		return fail("%s gives up with %s: %s", kind_names[party->kind],
			    strerror(-party->error), text);
	}
	if (contest->livelock)
		return fail("livelock: %s", contest->livelock_text);
	return NULL;
}

static const char *run_contest(struct contest *contest)
{
	const char *wrong;
	size_t n;

	TRY(set_up(contest));
	for (n = 0; n < contest->nr; n++) {
		errno = pthread_create(&contest->party[n].thread, NULL,
				       run_party, &contest->party[n]);
		TRY(must("thread", errno ? -1 : 0));
	}
	wrong = disturb(contest);
	for (n = 0; n < contest->nr; n++)
		pthread_join(contest->party[n].thread, NULL);
	TRY(wrong);
	TRY(check_parties(contest));
	TRY(contest->oracle->judge(contest));
	TRY(check_books(&contest->device[0]));
	TRY(check_books(&contest->device[1]));
	if (contest->setting->large)
		return NULL;
	TRY(claim(check_references(&contest->device[0], &contest->mem)));
	return claim(check_references(&contest->device[1], &contest->mem));
}

/* Cells */

static const struct oracle *oracle_of(size_t cell)
{
	return &oracles[cell / ARRAY_SIZE(settings)];
}

static const struct setting *setting_of(size_t cell)
{
	return &settings[cell % ARRAY_SIZE(settings)];
}

static const char *cell_name(size_t cell)
{
	static char name[100];

	snprintf(name, sizeof(name), "oracle.%s.%s", oracle_of(cell)->name,
		 setting_of(cell)->name);
	return name;
}

static const char *cell_excluded(size_t cell)
{
	(void)cell;
	return NULL;
}

static const char *cell_run(size_t cell)
{
	struct contest contest = {
		.oracle = oracle_of(cell),
		.setting = setting_of(cell),
	};

	return run_contest(&contest);
}

int main(int argc, char **argv)
{
	static const struct cells cells = {
		.subject = "oracle",
		.own_table = true,
		.nr = ARRAY_SIZE(oracles) * ARRAY_SIZE(settings),
		.name = cell_name,
		.excluded = cell_excluded,
		.run = cell_run,
	};

	return cells_main(&cells, argc, argv);
}
