// SPDX-License-Identifier: GPL-2.0
/*
 * The first process of the test guest
 *
 * Mounts what the tests need, makes swap and huge pages ready, loads the
 * modules (or finds them built in), and then obeys the host, which sends
 * commands over a channel of its own, apart from the console.
 *
 * The protocol
 * ------------
 *
 * One message a line. Words are separated by one space. A byte that is not
 * printable ASCII, and the backslash itself, is written as \xHH, so that a
 * line is a line whatever a test prints.
 *
 * Host to guest:
 *
 *   run <id> <milliseconds> <name> [<variable>=<value>...] <program>
 *       [<argument>...]
 *                       run one program, give it that long. A program whose
 *                       name begins with '@' is one of the applets below.
 *   batch <id> <milliseconds> <name> [<variable>=<value>...] <program>
 *       [<argument>...]
 *                       the same, but the time counts from the last thing that
 *                       the program has printed
 *   poweroff            end the guest
 *
 * Guest to host:
 *
 *   hello <version> <release> <key>=<value>...
 *                       once, when everything is ready
 *   begin <id>          the program is about to be started
 *   out <id> <text>     a line it has printed (stdout and stderr alike)
 *   part <id> <text>    the beginning of a line too long for one message
 *   note <id> <text>    something worth knowing; not a failure
 *   fault <id> <text>   something the guest found wrong after the program;
 *                       the test that was running has failed
 *   end <id> <how> <code> <milliseconds>
 *                       how is exit, signal, timeout or stuck (there are
 *                       processes that even SIGKILL does not end; the host
 *                       had better start a new guest)
 *
 * When the host closes the channel the guest powers itself off.
 *
 * The kernel log gets a marker before a program starts and another one after
 * it is gone, so that the console alone tells which test was running:
 *
 *   devexcl-test: begin <id> <name>
 *   devexcl-test: end <id> <name>
 *
 * Applets:
 *
 *   @load               load all modules in order
 *   @unload             unload them in the opposite order
 *   @kmemleak           scan for leaked kernel memory, fail if there is some
 */
#define _GNU_SOURCE
#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <sys/swap.h>
#include <sys/syscall.h>
#include <sys/utsname.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define PROTOCOL_VERSION	2
#define CHANNEL_NAME		"org.devexcl.channel"
#define TEST_DIR		"/devexcl"
#define MODULE_DIR		"/modules"
#define MODULE_ORDER		MODULE_DIR "/order"
#define SEPARATORS		"\n "

#define ZRAM_SIZE		(512UL << 20)
#define HUGE_PAGES_PER_NODE	8
#define WARN_LIMIT		"20"	/* then it panics */

#define MAX_HEAD		128	/* bytes of a message before its text */
#define MAX_LINE		2048	/* bytes of output in one message */
#define MAX_COMMAND		65536
#define MAX_ARGS		1024
#define MAX_MODULES		8
#define REAP_MS			5000	/* how long SIGKILL may take */
#define PORT_MS			10000	/* how long a port may be in coming */
#define REFCNT_MS		2000	/* how long a last put may take */

#define ARRAY_SIZE(a)		(sizeof(a) / sizeof((a)[0]))

static int channel = -1;
static char outbox[65536];	/* messages that have not been sent yet */
static size_t outbox_len;
static int kmsg = -1;
static int sigchld = -1;

static char *modules[MAX_MODULES];	/* names without ".ko" */
static int nr_modules;

/* ---- small helpers ------------------------------------------------- */

static long long now_ms(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec * 1000LL + ts.tv_nsec / 1000000;
}

static void write_all(int fd, const char *buf, size_t len)
{
	while (len) {
		ssize_t n = write(fd, buf, len);

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return;
		buf += n;
		len -= n;
	}
}

/* One write() is one record in the kernel log. */
static void log_kernel(const char *fmt, ...)
{
	char line[512];
	va_list ap;
	int len;

	va_start(ap, fmt);
	len = vsnprintf(line, sizeof(line), fmt, ap);
	va_end(ap);

	if (len >= (int)sizeof(line))
		len = sizeof(line) - 1;
	if (kmsg >= 0)
		write_all(kmsg, line, len);
}

static int write_file(const char *path, const char *fmt, ...)
{
	char text[256];
	va_list ap;
	ssize_t n;
	int len;
	int fd;

	va_start(ap, fmt);
	len = vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);

	fd = open(path, O_WRONLY | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	n = write(fd, text, len);
	if (n < 0)
		n = -errno;
	close(fd);
	return n < 0 ? (int)n : 0;
}

/* The beginning of a file as a string, without the last newline. */
static int read_file(const char *path, char *buf, size_t size)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	ssize_t n;

	buf[0] = '\0';
	if (fd < 0)
		return -errno;
	n = read(fd, buf, size - 1);
	if (n < 0)
		n = -errno;
	close(fd);
	if (n < 0)
		return (int)n;
	while (n && buf[n - 1] == '\n')
		n--;
	buf[n] = '\0';
	return 0;
}

static long read_number(const char *path, long missing)
{
	char text[32];

	if (read_file(path, text, sizeof(text)))
		return missing;
	return strtol(text, NULL, 10);
}

/* ---- the channel ---------------------------------------------------- */

static size_t escape(char *to, const char *from, size_t len)
{
	static const char hex[] = "0123456789abcdef";
	char *p = to;

	for (; len; len--, from++) {
		unsigned char c = *from;

		if (c >= ' ' && c < 0x7f && c != '\\') {
			*p++ = c;
		} else {
			*p++ = '\\';
			*p++ = 'x';
			*p++ = hex[c >> 4];
			*p++ = hex[c & 15];
		}
	}
	return p - to;
}

static void unescape(char *s)
{
	char *to = s;
	unsigned int c;

	while (*s) {
		if (s[0] == '\\' && s[1] == 'x' && sscanf(s + 2, "%2x", &c) == 1) {
			*to++ = c;
			s += 4;
		} else {
			*to++ = *s++;
		}
	}
	*to = '\0';
}

static void flush_outbox(void)
{
	write_all(channel, outbox, outbox_len);
	outbox_len = 0;
}

/*
 * Puts "<word> <id> <text>", the text escaped, into the outbox. Each write to
 * the channel waits for the host, so several messages are sent at once.
 */
static void put_text(const char *word, const char *id, const char *text,
		     size_t len)
{
	char *line;
	size_t n;

	if (outbox_len + 4 * len + MAX_HEAD > sizeof(outbox))
		flush_outbox();
	line = outbox + outbox_len;
	n = snprintf(line, MAX_HEAD - 1, "%s %s ", word, id);
	n += escape(line + n, text, len);
	line[n++] = '\n';
	outbox_len += n;
}

static void send_message(const char *word, const char *id,
			 const char *fmt, ...)
{
	char text[MAX_LINE];
	va_list ap;
	int len;

	va_start(ap, fmt);
	len = vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	if (len >= (int)sizeof(text))
		len = sizeof(text) - 1;
	put_text(word, id, text, len);
	flush_outbox();
}

/* The virtio-serial port with our name, if there is one so far. */
static int find_virtio_port(void)
{
	const char *class = "/sys/class/virtio-ports";
	struct dirent *entry;
	int fd = -1;
	DIR *dir;

	dir = opendir(class);
	if (!dir)
		return -1;
	while (fd < 0 && (entry = readdir(dir))) {
		char path[512];
		char name[64];

		snprintf(path, sizeof(path), "%s/%s/name", class, entry->d_name);
		if (read_file(path, name, sizeof(name)) ||
		    strcmp(name, CHANNEL_NAME))
			continue;
		snprintf(path, sizeof(path), "/dev/%s", entry->d_name);
		fd = open(path, O_RDWR | O_CLOEXEC);
	}
	closedir(dir);
	return fd;
}

/* The host names its ports one by one, while we are on our way already. */
static int open_virtio_port(void)
{
	long long deadline = now_ms() + PORT_MS;
	int fd;

	do
		fd = find_virtio_port();
	while (fd < 0 && now_ms() < deadline && !poll(NULL, 0, 10));
	return fd;
}

/* ---- modules -------------------------------------------------------- */

static void list_modules(void)
{
	static char order[512];
	char *name;

	if (read_file(MODULE_ORDER, order, sizeof(order)))
		return;
	for (name = strtok(order, SEPARATORS); name && nr_modules < MAX_MODULES;
	     name = strtok(NULL, SEPARATORS))
		modules[nr_modules++] = name;
}

/*
 * The parameters for a module from the kernel command line, where they are
 * written as "module.parameter=value", just as if the module were built in.
 */
static void module_params(const char *name, char *params, size_t size)
{
	size_t len = strlen(name);
	char cmdline[4096];
	char *save;
	char *word;

	params[0] = '\0';
	if (read_file("/proc/cmdline", cmdline, sizeof(cmdline)))
		return;
	for (word = strtok_r(cmdline, " ", &save); word;
	     word = strtok_r(NULL, " ", &save)) {
		size_t used = strlen(params);

		if (!strncmp(word, name, len) && word[len] == '.')
			snprintf(params + used, size - used, "%s ",
				 word + len + 1);
	}
}

static int load_module(const char *name)
{
	char path[256];
	char params[1024];
	int err = 0;
	int fd;

	snprintf(path, sizeof(path), "/sys/module/%s", name);
	if (!access(path, F_OK))
		return 0;

	snprintf(path, sizeof(path), MODULE_DIR "/%s.ko", name);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	module_params(name, params, sizeof(params));
	if (syscall(SYS_finit_module, fd, params, 0))
		err = -errno;
	close(fd);
	return err;
}

/* "builtin", "loaded", or what went wrong. */
static void load_modules(char *state, size_t size)
{
	int i;

	snprintf(state, size, nr_modules ? "loaded" : "builtin");
	for (i = 0; i < nr_modules; i++) {
		int err = load_module(modules[i]);

		if (err) {
			snprintf(state, size, "%s:%s", modules[i],
				 strerror(-err));
			return;
		}
	}
}

static int applet_load(void)
{
	char state[128];

	load_modules(state, sizeof(state));
	if (strcmp(state, "loaded")) {
		printf("not ok 1 module.load # %s\n", state);
		return 1;
	}
	printf("ok 1 module.load\n");
	return 0;
}

static int applet_unload(void)
{
	int i;

	for (i = nr_modules - 1; i >= 0; i--) {
		if (syscall(SYS_delete_module, modules[i], O_NONBLOCK)) {
			printf("# delete_module(\"%s\"): %s\n", modules[i],
			       strerror(errno));
			printf("not ok 1 module.unload\n");
			return 1;
		}
	}
	printf("ok 1 module.unload\n");
	return 0;
}

/*
 * A leak is believed only when two scans agree: pointers that were in
 * flight during the first one are not leaks.
 */
static int applet_kmemleak(void)
{
	const char *path = "/sys/kernel/debug/kmemleak";
	bool leak = false;
	char line[512];
	FILE *report;

	if (write_file(path, "scan") || write_file(path, "scan")) {
		printf("ok 1 kmemleak # SKIP no kmemleak in this kernel\n");
		return 4;
	}
	report = fopen(path, "re");
	while (report && fgets(line, sizeof(line), report)) {
		printf("# %s", line);
		leak = true;
	}
	if (report)
		fclose(report);
	printf("%s 1 kmemleak\n", leak ? "not ok" : "ok");
	return leak;
}

static int run_applet(const char *name)
{
	static const struct {
		const char *name;
		int (*run)(void);
	} applets[] = {
		{ "@load", applet_load },
		{ "@unload", applet_unload },
		{ "@kmemleak", applet_kmemleak },
	};
	size_t i;

	for (i = 0; i < ARRAY_SIZE(applets); i++) {
		if (!strcmp(name, applets[i].name)) {
			int ret = applets[i].run();

			fflush(stdout);
			return ret;
		}
	}
	fprintf(stderr, "there is no applet %s\n", name);
	return 127;
}

/* ---- running one program ------------------------------------------- */

struct job {
	const char *id;
	pid_t pid;
	int output;		/* our end of its stdout and stderr, or -1 */
	bool renews;		/* what it prints gives it time */
	long long since;	/* when its time began */
	bool done;
	int status;		/* as waitpid() gives it */
	char line[MAX_LINE];	/* output that is not a whole line yet */
	size_t len;
};

static void let_run_anywhere(void)
{
	cpu_set_t all;

	/* Those that are not there the kernel leaves out by itself. */
	memset(&all, 0xff, sizeof(all));
	sched_setaffinity(0, sizeof(all), &all);
}

static void start_job(struct job *job, char **argv)
{
	sigset_t none;
	int pipefd[2];
	int null;

	if (pipe2(pipefd, O_CLOEXEC))
		return;
	job->pid = fork();
	if (job->pid) {
		close(pipefd[1]);
		job->output = pipefd[0];
		return;
	}

	setsid();
	null = open("/dev/null", O_RDONLY);
	dup2(null, 0);
	dup2(pipefd[1], 1);
	dup2(pipefd[1], 2);
	if (null > 2)
		close(null);
	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
	let_run_anywhere();
	if (chdir(TEST_DIR))
		_exit(126);
	while (argv[0] && strchr(argv[0], '='))
		putenv(*argv++);
	if (!argv[0])
		_exit(127);
	if (argv[0][0] == '@')
		_exit(run_applet(argv[0]));
	execv(argv[0], argv);
	dprintf(2, "cannot execute %s: %s\n", argv[0], strerror(errno));
	_exit(127);
}

static void flush_line(struct job *job, const char *word)
{
	put_text(word, job->id, job->line, job->len);
	job->len = 0;
}

/* Passes on what the program has printed; false at the end of it. */
static bool pump_output(struct job *job)
{
	char buf[4096];
	ssize_t n, i;

	n = read(job->output, buf, sizeof(buf));
	if (n < 0)
		return errno == EINTR || errno == EAGAIN;
	if (job->renews)
		job->since = now_ms();
	for (i = 0; i < n; i++) {
		if (buf[i] == '\n') {
			flush_line(job, "out");
			continue;
		}
		job->line[job->len++] = buf[i];
		if (job->len == sizeof(job->line))
			flush_line(job, "part");
	}
	flush_outbox();
	return n > 0;
}

/* Collects everybody who has died. */
static void reap(struct job *job)
{
	struct signalfd_siginfo info;
	int status;
	pid_t pid;

	while (read(sigchld, &info, sizeof(info)) > 0)
		;
	while ((pid = waitpid(-1, &status, WNOHANG)) > 0) {
		if (pid == job->pid) {
			job->done = true;
			job->status = status;
		}
	}
}

/* Waits for output or for a death, no longer than the given time. */
static void wait_for_news(struct job *job, int timeout)
{
	struct pollfd fds[] = {
		{ .fd = sigchld, .events = POLLIN },
		{ .fd = job->output, .events = POLLIN },
	};

	if (poll(fds, 2, timeout) <= 0)
		return;
	if (fds[1].revents && !pump_output(job)) {
		close(job->output);
		job->output = -1;
	}
	if (fds[0].revents)
		reap(job);
}

/* True if anybody but us and the kernel's own threads is alive. */
static bool have_children(void)
{
	siginfo_t info;

	return !waitid(P_ALL, 0, &info, WEXITED | WNOHANG | WNOWAIT);
}

/* Tells where each process is that is still there. */
static void report_processes(const char *id)
{
	struct dirent *entry;
	DIR *dir;

	dir = opendir("/proc");
	while (dir && (entry = readdir(dir))) {
		char path[512], stat[512], wchan[128], stack[512];
		char *state;
		char *c;

		if (!isdigit((unsigned char)entry->d_name[0]) ||
		    !strcmp(entry->d_name, "1"))
			continue;
		/* kernel threads have no memory of their own: skip them */
		snprintf(path, sizeof(path), "/proc/%s/statm", entry->d_name);
		if (read_file(path, stat, sizeof(stat)) ||
		    !strncmp(stat, "0 ", 2))
			continue;
		snprintf(path, sizeof(path), "/proc/%s/stat", entry->d_name);
		read_file(path, stat, sizeof(stat));
		state = strrchr(stat, ')');
		if (!state || !state[1] || !state[2])
			continue;
		state[1] = '\0';
		snprintf(path, sizeof(path), "/proc/%s/wchan", entry->d_name);
		read_file(path, wchan, sizeof(wchan));
		snprintf(path, sizeof(path), "/proc/%s/stack", entry->d_name);
		read_file(path, stack, sizeof(stack));
		for (c = stack; *c; c++)
			if (*c == '\n')
				*c = ' ';
		send_message("note", id, "process %s, state %c, waits in %s %s",
			     stat, state[2], wchan, stack);
	}
	if (dir)
		closedir(dir);
}

/*
 * Ends whoever is left, and waits for them to be gone: the next test starts
 * on a clean machine. False if somebody cannot be killed.
 */
static bool kill_everybody(struct job *job)
{
	long long deadline = now_ms() + REAP_MS;

	kill(-1, SIGKILL);
	for (;;) {
		long long left = deadline - now_ms();

		reap(job);
		if (!have_children())
			return true;
		if (left <= 0)
			return false;
		wait_for_news(job, left);
	}
}

/* The last reference may be dropped a moment after the last close. */
static void check_module_references(const char *id)
{
	int i;

	for (i = 0; i < nr_modules; i++) {
		long long deadline = now_ms() + REFCNT_MS;
		char path[256];
		long count;

		snprintf(path, sizeof(path), "/sys/module/%s/refcnt",
			 modules[i]);
		do {
			count = read_number(path, 0);
		} while (count && now_ms() < deadline && !poll(NULL, 0, 10));
		if (count)
			send_message("fault", id,
				     "module %s still has %ld references after the test",
				     modules[i], count);
	}
}

static void run_job(char *id, long long timeout, bool renews, char *name,
		    char **argv)
{
	long long start = now_ms();
	struct job job = {
		.id = id,
		.output = -1,
		.renews = renews,
		.since = start,
	};
	const char *how;
	int code;

	log_kernel("devexcl-test: begin %s %s\n", id, name);
	send_message("begin", id, "%s", name);

	start_job(&job, argv);
	if (job.pid <= 0) {
		send_message("fault", id, "cannot start: %s", strerror(errno));
		job.done = true;
		job.status = 127 << 8;
	}
	while (!job.done) {
		long long left = job.since + timeout - now_ms();

		if (left <= 0)
			break;
		wait_for_news(&job, left);
	}

	if (job.done) {
		how = WIFSIGNALED(job.status) ? "signal" : "exit";
		code = WIFSIGNALED(job.status) ? WTERMSIG(job.status) :
						 WEXITSTATUS(job.status);
		if (have_children())
			send_message("note", id,
				     "processes were left behind, and killed");
	} else {
		how = "timeout";
		code = timeout / 1000;
		report_processes(id);
	}
	if (!kill_everybody(&job)) {
		how = "stuck";
		report_processes(id);
		write_file("/proc/sysrq-trigger", "w");
	}

	/* What was printed before the end is still in the pipe. */
	if (job.output >= 0) {
		fcntl(job.output, F_SETFL, O_NONBLOCK);
		do
			errno = 0;
		while (pump_output(&job) && errno != EAGAIN);
		close(job.output);
	}
	if (job.len)
		flush_line(&job, "out");
	flush_outbox();

	if (strcmp(how, "stuck"))
		check_module_references(id);
	log_kernel("devexcl-test: end %s %s\n", id, name);
	send_message("end", id, "%s %d %lld", how, code, now_ms() - start);
}

/* ---- preparing the guest -------------------------------------------- */

static void mount_all(void)
{
	static const struct {
		const char *type, *dir, *options;
	} mounts[] = {
		{ "proc", "/proc", NULL },
		{ "sysfs", "/sys", NULL },
		{ "devtmpfs", "/dev", "mode=0755" },
		{ "devpts", "/dev/pts", "mode=0620" },
		{ "tmpfs", "/dev/shm", "mode=1777" },
		{ "tmpfs", "/tmp", "mode=1777" },
		{ "debugfs", "/sys/kernel/debug", NULL },
		{ "tracefs", "/sys/kernel/tracing", NULL },
		{ "cgroup2", "/sys/fs/cgroup", NULL },
		{ "hugetlbfs", "/dev/hugepages", NULL },
	};
	size_t i;

	for (i = 0; i < ARRAY_SIZE(mounts); i++) {
		mkdir(mounts[i].dir, 0755);
		if (mount(mounts[i].type, mounts[i].dir, mounts[i].type, 0,
			  mounts[i].options))
			log_kernel("devexcl-init: cannot mount %s: %s\n",
				   mounts[i].type, strerror(errno));
		if (!strcmp(mounts[i].type, "devtmpfs"))
			kmsg = open("/dev/kmsg", O_WRONLY | O_CLOEXEC);
	}
}

/* Makes /dev/zram0 a swap device; what mkswap(8) and swapon(8) would do. */
static int make_swap(void)
{
	const unsigned int page = sysconf(_SC_PAGESIZE);
	struct {
		char boot[1024];
		unsigned int version;
		unsigned int last_page;
		unsigned int nr_bad_pages;
	} *header;
	int err = 0;
	int fd;

	err = write_file("/sys/block/zram0/disksize", "%lu", ZRAM_SIZE);
	if (err)
		return err;
	fd = open("/dev/zram0", O_RDWR | O_CLOEXEC);
	if (fd < 0)
		return -errno;

	header = calloc(1, page);
	if (!header) {
		close(fd);
		return -ENOMEM;
	}
	header->version = 1;
	header->last_page = ZRAM_SIZE / page - 1;
	memcpy((char *)header + page - 10, "SWAPSPACE2", 10);
	if (pwrite(fd, header, page, 0) != (ssize_t)page || fsync(fd))
		err = errno ? -errno : -EIO;
	free(header);
	close(fd);

	if (!err && swapon("/dev/zram0", 0))
		err = -errno;
	return err;
}

/* Spreads the huge pages over the nodes; returns how many there are. */
static long reserve_huge_pages(int nodes)
{
	char path[128];
	long total = 0;
	int node;

	for (node = 0; node < nodes; node++) {
		snprintf(path, sizeof(path),
			 "/sys/devices/system/node/node%d/hugepages/hugepages-2048kB/nr_hugepages",
			 node);
		write_file(path, "%d", HUGE_PAGES_PER_NODE);
		total += read_number(path, 0);
	}
	return total;
}

static bool is_helper(const char *pid)
{
	char path[300], name[64];

	snprintf(path, sizeof(path), "/proc/%s/comm", pid);
	return isdigit((unsigned char)pid[0]) &&
	       !read_file(path, name, sizeof(name)) &&
	       (!strncmp(name, "rcu", 3) || !strncmp(name, "pr/", 3));
}

/*
 * Who works for whoever is tested does so on the last CPU, where the cells of
 * the matrix stay: RCU, the console, workers without a CPU of their own, and we.
 * An emulated CPU takes longer to wake another one than most of that takes; and
 * whoever waits for a lock meanwhile spins. So the other CPUs are idle, too,
 * unless a test wants them, and leave theirs of the host to another guest.
 */
static void gather_helpers(void)
{
	int last = sysconf(_SC_NPROCESSORS_ONLN) - 1;
	struct dirent *entry;
	cpu_set_t set;
	DIR *dir;

	CPU_ZERO(&set);
	CPU_SET(last, &set);
	sched_setaffinity(0, sizeof(set), &set);
	write_file("/sys/devices/virtual/workqueue/cpumask", "%x", 1U << last);
	dir = opendir("/proc");
	while (dir && (entry = readdir(dir)))
		if (is_helper(entry->d_name))
			sched_setaffinity(atoi(entry->d_name), sizeof(set),
					  &set);
	if (dir)
		closedir(dir);
	/* A timer for each slice is a call of the host for each switch. */
	write_file("/sys/kernel/debug/sched/features", "NO_HRTICK");
}

static int count_nodes(void)
{
	char path[64];
	int nodes = 0;

	do
		snprintf(path, sizeof(path), "/sys/devices/system/node/node%d",
			 nodes);
	while (!access(path, F_OK) && ++nodes);
	return nodes;
}

static void prepare(char *summary, size_t size)
{
	struct rlimit core = { 0, RLIM_INFINITY };
	struct utsname uts;
	char module[128];
	int nodes;
	int swap;
	long huge;

	write_file("/proc/sys/kernel/printk_devkmsg", "on\n");
	write_file("/proc/sys/kernel/core_pattern", "core\n");
	write_file("/proc/sys/kernel/sysrq", "1\n");
	/* Some bugs make a kernel warn for ever, a page of text each time. */
	write_file("/proc/sys/kernel/warn_limit", WARN_LIMIT "\n");
	setrlimit(RLIMIT_CORE, &core);
	setenv("PATH", TEST_DIR ":/bin", 1);
	setenv("HOME", "/tmp", 1);
	setenv("TMPDIR", "/tmp", 1);
	setenv("TERM", "linux", 0);

	gather_helpers();
	nodes = count_nodes();
	huge = reserve_huge_pages(nodes);
	swap = make_swap();
	if (swap)
		log_kernel("devexcl-init: no swap: %s\n", strerror(-swap));
	list_modules();
	load_modules(module, sizeof(module));

	uname(&uts);
	snprintf(summary, size,
		 "%s cpus=%ld nodes=%d page=%ld swap=%lu huge=%ld modules=%s",
		 uts.release, sysconf(_SC_NPROCESSORS_ONLN), nodes,
		 sysconf(_SC_PAGESIZE), swap ? 0 : ZRAM_SIZE >> 20, huge, module);
}

/* ---- the life of the first process ---------------------------------- */

static void power_off(void)
{
	sync();
	reboot(RB_POWER_OFF);
	reboot(RB_AUTOBOOT);	/* ends QEMU as well: it runs with -no-reboot */
	for (;;)
		pause();
}

/* An interactive shell on the console; the guest ends with it. */
static void run_shell(void)
{
	static char *const argv[] = { "sh", NULL };
	int status;
	pid_t pid;

	pid = fork();
	if (!pid) {
		int tty;

		let_run_anywhere();
		setsid();
		tty = open("/dev/ttyS0", O_RDWR);
		dup2(tty, 0);
		dup2(tty, 1);
		dup2(tty, 2);
		if (chdir(TEST_DIR))
			_exit(126);
		execv("/bin/sh", argv);
		dprintf(2, "no shell in this guest: %s\n", strerror(errno));
		_exit(127);
	}
	while (waitpid(-1, &status, 0) != pid)
		;
}

static void obey(char *line)
{
	char *argv[MAX_ARGS + 1];
	char *save;
	char *word;
	int argc = 0;

	for (word = strtok_r(line, " ", &save); word && argc < MAX_ARGS;
	     word = strtok_r(NULL, " ", &save)) {
		unescape(word);
		argv[argc++] = word;
	}
	argv[argc] = NULL;

	if (argc == 1 && !strcmp(argv[0], "poweroff"))
		power_off();
	else if (argc >= 5 && (!strcmp(argv[0], "run") ||
			       !strcmp(argv[0], "batch")))
		run_job(argv[1], atoll(argv[2]), !strcmp(argv[0], "batch"),
			argv[3], argv + 4);
	else if (argc)
		send_message("note", "0", "unknown command %s", argv[0]);
}

static void serve(void)
{
	static char line[MAX_COMMAND];
	size_t len = 0;
	ssize_t n;

	while ((n = read(channel, line + len, sizeof(line) - 1 - len)) > 0) {
		char *next;

		len += n;
		line[len] = '\0';
		while ((next = strchr(line, '\n'))) {
			char command[sizeof(line)];

			*next++ = '\0';
			memcpy(command, line, next - line);
			len -= next - line;
			memmove(line, next, len + 1);
			obey(command);
		}
		if (len == sizeof(line) - 1)
			len = 0;	/* no command is that long: garbage */
	}
}

static bool cmdline_has(const char *wanted)
{
	char cmdline[4096];
	char *save;
	char *word;

	read_file("/proc/cmdline", cmdline, sizeof(cmdline));
	for (word = strtok_r(cmdline, " ", &save); word;
	     word = strtok_r(NULL, " ", &save))
		if (!strcmp(word, wanted))
			return true;
	return false;
}

int main(void)
{
	char summary[512];
	char version[16];
	sigset_t mask;

	sigemptyset(&mask);
	sigaddset(&mask, SIGCHLD);
	sigprocmask(SIG_BLOCK, &mask, NULL);
	sigchld = signalfd(-1, &mask, SFD_NONBLOCK | SFD_CLOEXEC);

	mount_all();
	if (cmdline_has("devexcl.probe")) {
		log_kernel("devexcl-init: probe\n");
		power_off();
	}
	prepare(summary, sizeof(summary));
	log_kernel("devexcl-init: ready %s\n", summary);

	if (cmdline_has("devexcl.shell")) {
		run_shell();
		power_off();
	}

	channel = open_virtio_port();
	if (channel < 0) {
		log_kernel("devexcl-init: no channel to the host\n");
		power_off();
	}
	snprintf(version, sizeof(version), "%d", PROTOCOL_VERSION);
	send_message("hello", version, "%s", summary);
	serve();
	power_off();
	return 0;
}
