/* The floor: the least that a correct C-STORE receiver can do, as a measure for the others.
 *
 * usage: floor PORT FOLDER MAX_PDU
 *
 * It frames P-DATA, writes each data set straight out of the receive buffer behind a Part 10 header,
 * renames the file to its SOP instance UID and answers. It reads no element of a data set, makes no
 * path, tells nobody, and keeps nothing in order but one association a thread. Listens on 127.0.0.1.
 * A peer that breaks the protocol is dropped without a word.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <fcntl.h>
#include <limits.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

enum { A_ASSOCIATE_RQ = 1, A_ASSOCIATE_AC, P_DATA_TF = 4, A_RELEASE_RQ, A_RELEASE_RP };
enum { COMMAND = 1, LAST = 2 };                 /* message control header, PS3.8 E.2 */
enum { SUCCESS = 0, OUT_OF_RESOURCES = 0xA700 }; /* PS3.4 B.2.3 */
enum { UID_LENGTH = 64, LONGEST_COMMAND = 4096, LONGEST_ANSWER = 1 << 16 };
enum { BUFFER = 128 << 10 }; /* stays in the L2 cache */
enum { PIECES = 512 };       /* below IOV_MAX */

static const char *folder;
static uint32_t max_pdu;

struct uid {
    char text[UID_LENGTH + 1];
    unsigned length; /* as sent, padding included */
};

struct association {
    int socket;
    uint8_t *buffer;
    size_t begin, end; /* what was received and not yet taken */
    bool in_message;

    struct uid syntaxes[256]; /* by presentation context */
    uint8_t command[LONGEST_COMMAND];
    size_t command_length;

    struct uid sop_class, sop_instance;
    uint8_t message_id[2];
    int file;
    int status;
    char temporary[PATH_MAX];
    uint8_t header[512];
    struct iovec pieces[PIECES]; /* of the file; they lie in `buffer` and `header` */
    int count;
};

static uint32_t big_endian_16(const uint8_t *p) { return (uint32_t)p[0] << 8 | p[1]; }
static uint32_t big_endian_32(const uint8_t *p) { return big_endian_16(p) << 16 | big_endian_16(p + 2); }
static uint8_t *put_16(uint8_t *p, uint32_t v) { return p[0] = v >> 8, p[1] = v, p + 2; }
static uint8_t *put_32(uint8_t *p, uint32_t v) { return put_16(put_16(p, v >> 16), v); }
static uint8_t *put(uint8_t *p, const void *bytes, size_t n) { return (uint8_t *)memcpy(p, bytes, n) + n; }

static bool set_uid(struct uid *uid, const uint8_t *value, size_t length)
{
    if (length > UID_LENGTH || memchr(value, '/', length))
        return false; /* it becomes a file's name */
    memcpy(uid->text, value, length);
    uid->text[length] = 0;
    uid->length = length;
    return true;
}

static bool send_whole(int socket, const uint8_t *bytes, size_t n)
{
    while (n) {
        ssize_t sent = send(socket, bytes, n, MSG_NOSIGNAL);
        if (sent <= 0)
            return false;
        bytes += sent, n -= sent;
    }
    return true;
}

/* Write the gathered pieces, however often the file system takes only a part. */
static void flush_pieces(struct association *a)
{
    struct iovec *next = a->pieces;
    while (a->count) {
        ssize_t written = a->status == SUCCESS ? writev(a->file, next, a->count) : -1;
        if (written <= 0) {
            a->status = OUT_OF_RESOURCES;
            break;
        }
        while (a->count && (size_t)written >= next->iov_len)
            written -= next++->iov_len, a->count--;
        if (a->count) {
            next->iov_base = (uint8_t *)next->iov_base + written;
            next->iov_len -= written;
        }
    }
    a->count = 0;
}

static void add_piece(struct association *a, void *base, size_t length)
{
    if (a->count == PIECES)
        flush_pieces(a);
    a->pieces[a->count++] = (struct iovec){base, length};
}

/* Receive until `n` bytes lie together at `begin`. */
static bool have(struct association *a, size_t n)
{
    if (a->end - a->begin >= n)
        return true;
    flush_pieces(a); /* before the bytes that they are move */
    memmove(a->buffer, a->buffer + a->begin, a->end - a->begin);
    a->end -= a->begin, a->begin = 0;
    while (a->end < n) {
        /* A sender with Nagle's algorithm on holds the data set back until the command is
         * acknowledged: do not let it wait 40 ms for the kernel's delayed acknowledgement. */
        if (a->in_message)
            setsockopt(a->socket, IPPROTO_TCP, TCP_QUICKACK, &(int){1}, sizeof(int));
        ssize_t got = n <= BUFFER ? recv(a->socket, a->buffer + a->end, BUFFER - a->end, 0) : 0;
        if (got <= 0)
            return false;
        a->end += got;
    }
    return true;
}

/* PS3.8 9.3.3: every context is accepted with the first of its transfer syntaxes. */
static bool accept_association(struct association *a, const uint8_t *rq, size_t length)
{
    static const char application_context[] = "1.2.840.10008.3.1.1.1";
    static const char implementation[] = "2.25.117331928044563620163047551370904427360";
    uint8_t answer[LONGEST_ANSWER] = {A_ASSOCIATE_AC, 0, 0, 0, 0, 0, 0, 1};
    if (length < 68 || length > LONGEST_ANSWER / 2)
        return false;
    put(answer + 10, rq + 4, 32); /* the AE titles */
    uint8_t *p = put_16(put(answer + 74, "\x10\0", 2), sizeof application_context - 1);
    p = put(p, application_context, sizeof application_context - 1);

    const uint8_t *end = rq + length;
    for (const uint8_t *item = rq + 68, *next; item + 4 <= end; item = next) {
        next = item + 4 + big_endian_16(item + 2);
        if (next > end)
            return false;
        if (item[0] != 0x20 || next < item + 8)
            continue;
        struct uid *syntax = &a->syntaxes[item[4]];
        for (const uint8_t *sub = item + 8; sub + 4 <= next; sub += 4 + big_endian_16(sub + 2))
            if (sub[0] == 0x40 && !syntax->length
                && (sub + 4 + big_endian_16(sub + 2) > next
                    || !set_uid(syntax, sub + 4, big_endian_16(sub + 2))))
                return false;
        p = put_16(put(p, "\x21\0", 2), 8 + syntax->length);
        p = put(p, (uint8_t[]){item[4], 0, 0, 0, 0x40, 0}, 6);
        p = put(put_16(p, syntax->length), syntax->text, syntax->length);
    }
    p = put_16(put(p, "\x50\0", 2), 8 + 4 + sizeof implementation - 1);
    p = put_32(put(p, "\x51\0\0\4", 4), max_pdu);
    p = put_16(put(p, "\x52\0", 2), sizeof implementation - 1);
    p = put(p, implementation, sizeof implementation - 1);
    put_32(answer + 2, p - answer - 6);
    return send_whole(a->socket, answer, p - answer);
}

/* A command element, PS3.7 E.1; little endian, as the file's header is. */
static uint8_t *put_element(uint8_t *p, unsigned element, const void *value, unsigned length)
{
    p = put(p, (uint8_t[]){0, 0, element, element >> 8, length, length >> 8, 0, 0}, 8);
    return put(p, value, length);
}

static uint8_t *put_meta(uint8_t *p, unsigned element, const char *vr, const void *value, unsigned length)
{
    unsigned padded = length + length % 2;
    p = put(p, (uint8_t[]){2, 0, element, element >> 8, vr[0], vr[1], padded, padded >> 8}, 8);
    p = put(p, value, length);
    return padded > length ? put(p, "", 1) : p;
}

/* The command is whole: begin the file with its Part 10 header, PS3.10 7.1. */
static bool begin_file(struct association *a, int context)
{
    a->sop_class.length = a->sop_instance.length = 0;
    for (size_t at = 0, length; at + 8 <= a->command_length; at += 8 + length) {
        const uint8_t *value = a->command + at + 8;
        unsigned element = a->command[at + 2] | a->command[at + 3] << 8;
        length = a->command[at + 4] | a->command[at + 5] << 8;
        if (at + 8 + length > a->command_length)
            return false;
        if ((element == 0x0002 && !set_uid(&a->sop_class, value, length))
            || (element == 0x1000 && !set_uid(&a->sop_instance, value, length))
            || (element == 0x0100 && (length != 2 || value[0] != 1)))
            return false; /* nothing but C-STORE-RQ */
        if (element == 0x0110 && length == 2)
            memcpy(a->message_id, value, 2);
    }
    if (!a->sop_class.length || !a->sop_instance.text[0])
        return false;

    const struct uid *syntax = &a->syntaxes[context];
    memset(a->header, 0, 128);
    uint8_t *group = put(a->header + 128, "DICM", 4), *p = group + 12;
    p = put(p, "\2\0\1\0OB\0\0\2\0\0\0\0\1", 14);
    p = put_meta(p, 0x0002, "UI", a->sop_class.text, a->sop_class.length);
    p = put_meta(p, 0x0003, "UI", a->sop_instance.text, a->sop_instance.length);
    p = put_meta(p, 0x0010, "UI", syntax->text, syntax->length);
    p = put_meta(p, 0x0012, "UI", "2.25.117331928044563620163047551370904427360", 44);
    uint32_t length = p - group - 12;
    put_meta(group, 0x0000, "UL", (uint8_t[]){length, length >> 8, 0, 0}, 4);

    a->file = open(a->temporary, O_CREAT | O_WRONLY | O_TRUNC | O_CLOEXEC, 0644);
    a->status = a->file < 0 ? OUT_OF_RESOURCES : SUCCESS;
    add_piece(a, a->header, p - a->header);
    return true;
}

/* The data set is whole: give the file its name, and answer, PS3.7 9.3.1.2. */
static bool end_file(struct association *a, int context)
{
    char name[PATH_MAX];
    flush_pieces(a);
    if (a->file >= 0 && close(a->file) < 0)
        a->status = OUT_OF_RESOURCES;
    a->file = -1;
    snprintf(name, sizeof name, "%s/%s.dcm", folder, a->sop_instance.text);
    if (a->status == SUCCESS && rename(a->temporary, name) < 0)
        a->status = OUT_OF_RESOURCES;

    uint8_t answer[512], *group = answer + 12, *p = group + 12;
    p = put_element(p, 0x0002, a->sop_class.text, a->sop_class.length);
    p = put_element(p, 0x0100, "\1\x80", 2);
    p = put_element(p, 0x0120, a->message_id, 2);
    p = put_element(p, 0x0800, "\1\1", 2);
    p = put_element(p, 0x0900, (uint8_t[]){a->status, a->status >> 8}, 2);
    p = put_element(p, 0x1000, a->sop_instance.text, a->sop_instance.length);
    uint32_t length = p - group - 12;
    put_element(group, 0x0000, (uint8_t[]){length, length >> 8, 0, 0}, 4);
    answer[0] = P_DATA_TF, answer[1] = 0;
    put_32(answer + 2, p - answer - 6);
    put_32(answer + 6, p - answer - 10);
    answer[10] = context, answer[11] = COMMAND | LAST;
    return send_whole(a->socket, answer, p - answer);
}

/* One PDV's fragment, in as many parts as it arrives. */
static bool take_fragment(struct association *a, size_t left, bool command)
{
    while (left) {
        if (!have(a, 1))
            return false;
        size_t part = a->end - a->begin < left ? a->end - a->begin : left;
        if (!command) {
            add_piece(a, a->buffer + a->begin, part);
        } else {
            if (a->command_length + part > LONGEST_COMMAND)
                return false;
            memcpy(a->command + a->command_length, a->buffer + a->begin, part);
            a->command_length += part;
        }
        a->begin += part, left -= part;
    }
    return true;
}

/* PS3.8 9.3.5 */
static bool take_p_data(struct association *a, uint32_t left)
{
    while (left) {
        if (left < 6 || !have(a, 6))
            return false;
        const uint8_t *header = a->buffer + a->begin;
        uint32_t length = big_endian_32(header);
        int context = header[4], control = header[5];
        if (length < 2 || length > left - 4 || (!(control & COMMAND) && !a->in_message))
            return false;
        a->begin += 6, left -= 4 + length;
        if (!take_fragment(a, length - 2, control & COMMAND))
            return false;
        if (!(control & LAST))
            continue;
        if (control & COMMAND) {
            if (a->in_message || !begin_file(a, context))
                return false;
            a->command_length = 0;
        } else if (!end_file(a, context)) {
            return false;
        }
        a->in_message = control & COMMAND;
    }
    return true;
}

static void serve(struct association *a)
{
    while (have(a, 6)) {
        int type = a->buffer[a->begin];
        uint32_t length = big_endian_32(a->buffer + a->begin + 2);
        a->begin += 6;
        if (type == P_DATA_TF) {
            if (!take_p_data(a, length))
                return;
            continue;
        }
        if (!have(a, length))
            return;
        const uint8_t *body = a->buffer + a->begin;
        a->begin += length;
        if (type == A_RELEASE_RQ)
            send_whole(a->socket, (uint8_t[10]){A_RELEASE_RP, 0, 0, 0, 0, 4}, 10);
        if (type != A_ASSOCIATE_RQ || !accept_association(a, body, length))
            return;
    }
}

static void *run(void *argument)
{
    struct association *a = argument;
    serve(a);
    if (a->file >= 0) {
        close(a->file);
        unlink(a->temporary);
    }
    close(a->socket);
    free(a->buffer);
    free(a);
    return NULL;
}

int main(int count, char **arguments)
{
    if (count != 4)
        return fputs("usage: floor PORT FOLDER MAX_PDU\n", stderr), 2;
    folder = arguments[2];
    max_pdu = strtoul(arguments[3], NULL, 10);
    int listener = socket(AF_INET, SOCK_STREAM, 0);
    struct sockaddr_in address = {
        .sin_family = AF_INET,
        .sin_port = htons(atoi(arguments[1])),
        .sin_addr.s_addr = htonl(INADDR_LOOPBACK),
    };
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &(int){1}, sizeof(int));
    if (bind(listener, (struct sockaddr *)&address, sizeof address) < 0 || listen(listener, 512) < 0)
        return perror("floor"), 1;
    for (;;) {
        int connection = accept(listener, NULL, NULL);
        if (connection < 0)
            continue;
        setsockopt(connection, IPPROTO_TCP, TCP_NODELAY, &(int){1}, sizeof(int));
        struct association *a = calloc(1, sizeof *a);
        uint8_t *buffer = malloc(BUFFER);
        if (!a || !buffer)
            return perror("floor"), 1;
        a->socket = connection, a->buffer = buffer, a->file = -1;
        snprintf(a->temporary, sizeof a->temporary, "%s/.incoming-%d", folder, connection);
        pthread_t thread;
        if (pthread_create(&thread, NULL, run, a))
            return perror("floor"), 1;
        pthread_detach(thread);
    }
}
