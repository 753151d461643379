/*
 * Lets the real nvme-cli talk to a controller of ours, without a kernel: preloaded, it stands in for
 * /dev/nvme0 and /dev/nvme0n1 and sends each admin command over a Unix socket (NVME_SHIM_SOCKET) to record.py.
 *
 *     request   struct nvme_passthru_cmd, 72 bytes
 *     answer    u32 status, u32 result, u32 length, then the data
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

struct passthru {
	uint8_t opcode, flags;
	uint16_t rsvd;
	uint32_t nsid, cdw2, cdw3;
	uint64_t metadata, addr;
	uint32_t metadata_len, data_len, cdw10, cdw11, cdw12, cdw13, cdw14, cdw15, timeout_ms, result;
};

enum { NONE, CHARACTER, BLOCK, FDS = 1024, NVME_IOCTL_ID = 0x4e40, ADMIN = 0x4e41, ADMIN64 = 0x4e47 };

static char kind_of_fd[FDS];

static int kind_of(const char *path)
{
	if (!strcmp(path, "/dev/nvme0"))
		return CHARACTER;
	return strcmp(path, "/dev/nvme0n1") ? NONE : BLOCK;
}

int open64(const char *path, int flags, ...)
{
	static int (*real)(const char *, int, ...);
	va_list args;
	int mode, fd, kind = kind_of(path);

	va_start(args, flags);
	mode = va_arg(args, int);
	va_end(args);
	if (!real)
		real = dlsym(RTLD_NEXT, "open64");
	fd = real(kind ? "/dev/null" : path, kind ? O_RDWR : flags, mode);
	if (kind && fd >= 0 && fd < FDS)
		kind_of_fd[fd] = kind;
	return fd;
}

int open(const char *path, int flags, ...) __attribute__((alias("open64")));

int __open64_2(const char *path, int flags)
{
	return open64(path, flags);
}

int fstat64(int fd, struct stat64 *st)
{
	static int (*real)(int, struct stat64 *);
	int ret;

	if (!real)
		real = dlsym(RTLD_NEXT, "fstat64");
	ret = real(fd, st);
	if (fd >= 0 && fd < FDS && kind_of_fd[fd])
		st->st_mode = (kind_of_fd[fd] == BLOCK ? S_IFBLK : S_IFCHR) | 0600;
	return ret;
}

int stat64(const char *path, struct stat64 *st)
{
	static int (*real)(const char *, struct stat64 *);
	int kind = kind_of(path);

	if (!real)
		real = dlsym(RTLD_NEXT, "stat64");
	if (!kind)
		return real(path, st);
	memset(st, 0, sizeof(*st));
	st->st_mode = (kind == BLOCK ? S_IFBLK : S_IFCHR) | 0600;
	return 0;
}

static void all(int fd, void *data, size_t length, int writing)
{
	while (length) {
		ssize_t done = writing ? write(fd, data, length) : read(fd, data, length);

		if (done <= 0)
			_exit(99);
		data = (char *)data + done;
		length -= done;
	}
}

static int admin(struct passthru *cmd, int wide)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	uint32_t answer[3];
	int fd = socket(AF_UNIX, SOCK_STREAM, 0);

	strncpy(address.sun_path, getenv("NVME_SHIM_SOCKET"), sizeof(address.sun_path) - 1);
	if (connect(fd, (void *)&address, sizeof(address)))
		_exit(98);
	all(fd, cmd, sizeof(*cmd), 1);
	all(fd, answer, sizeof(answer), 0);
	if (answer[2] > cmd->data_len)
		_exit(97);
	all(fd, (void *)(uintptr_t)cmd->addr, answer[2], 0);
	close(fd);
	if (wide)
		*(uint64_t *)((char *)cmd + 72) = answer[1];
	else
		cmd->result = answer[1];
	return answer[0];
}

int ioctl(int fd, unsigned long request, ...)
{
	static int (*real)(int, unsigned long, ...);
	va_list args;
	void *arg;

	va_start(args, request);
	arg = va_arg(args, void *);
	va_end(args);
	if (!real)
		real = dlsym(RTLD_NEXT, "ioctl");
	if (fd < 0 || fd >= FDS || !kind_of_fd[fd])
		return real(fd, request, arg);
	switch (request & 0xffff) {
	case ADMIN:
	case ADMIN64:
		return admin(arg, (request & 0xffff) == ADMIN64);
	case NVME_IOCTL_ID:
		if (kind_of_fd[fd] == BLOCK)
			return 1;
	}
	errno = ENOTTY;
	return -1;
}
