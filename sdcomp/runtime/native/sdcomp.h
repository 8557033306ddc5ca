/* sdcomp.h: the public C interface of an artifact that sdcomp built. Every artifact (model.so) exports
 * exactly these functions.
 *
 * How to use it: dlopen the artifact, look the functions up, check sdcomp_abi_version(), then
 *
 *   sdcomp_open -> sdcomp_context_create -> sdcomp_run ... -> sdcomp_context_destroy -> sdcomp_close
 *
 * Rules that hold for the whole interface, each with its reason:
 *
 * 1. The version word comes first. sdcomp_abi_version() never changes its signature, so that any program may
 *    ask any artifact; the number rises only when an existing program would break, and then sdcomp_open
 *    refuses the old one in words.
 * 2. Structures start with their own size, set by the caller. A structure may grow at its end: an older
 *    caller's shorter structure reads as zeros behind its end, and a newer caller's longer one is accepted
 *    as long as what is unknown here is zero.
 * 3. Handles are opaque: the runtime inside an artifact may change without a change of this file.
 * 4. Nothing happens at load. There is no constructor: dlopen costs a few pages, and sdcomp_open, which can
 *    fail, says why.
 * 5. Functions that can fail return a status and write one line of text (UTF-8, always ended by NUL, cut to
 *    error_bytes) that names the file or tensor, what was expected, what was found and what to do. error may
 *    be NULL. The text is the caller's buffer and not thread-local storage, so that it outlives the library
 *    and costs nothing where nobody asks.
 * 6. Nobody frees what the other side allocated. Strings and pointers that a model returns live until
 *    sdcomp_close.
 * 7. A model is shared by threads without locks: all its functions may be called at the same time, except
 *    sdcomp_close. A context belongs to one run at a time; a second concurrent call is refused
 *    (SDCOMP_BUSY), never undefined.
 * 8. Programs are numbered in the order of the manifest and looked up by name once: numbers cost nothing per
 *    run, names last.
 */
#ifndef SDCOMP_H
#define SDCOMP_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Artifacts are compiled with hidden visibility: these functions are the whole of what they export. */
#define SDCOMP_API __attribute__((visibility("default")))

#define SDCOMP_ABI_VERSION 1u

/* Kernels load and store whole vectors: every input and output starts at a multiple of this many bytes. */
#define SDCOMP_ALIGNMENT 64u

/* The version of this file that the artifact was built with. */
SDCOMP_API uint32_t sdcomp_abi_version(void);

/* An opened artifact: mapped weights and a pool of threads. */
typedef struct sdcomp_model sdcomp_model;

/* The memory of one picture in the making: intermediate values, and state that programs leave. */
typedef struct sdcomp_context sdcomp_context;

/* An int in the functions' signatures: an enum's width is the compiler's choice, an ABI's is not. */
typedef int32_t sdcomp_status;
enum {
  SDCOMP_OK = 0,
  SDCOMP_INVALID = 1,     /* an argument that cannot be honoured */
  SDCOMP_UNSUPPORTED = 2, /* another version of interface or format, or a CPU without what kernels use */
  SDCOMP_MISSING = 3,     /* no weights, or no state that another program must leave first */
  SDCOMP_DAMAGED = 4,     /* a payload that is truncated, altered, or of another build */
  SDCOMP_SYSTEM = 5,      /* the operating system refused memory, a thread or a file */
  SDCOMP_BUSY = 6,        /* in use by another call */
  SDCOMP_CANCELLED = 7    /* sdcomp_cancel ended the run: outputs are not to be used */
};

/* ---- Opening ------------------------------------------------------------------------------------------- */

/* Skips reading the whole payload at open. The trailer, the table of hashes and the link to this code are
 * checked all the same. */
#define SDCOMP_OPEN_UNVERIFIED 1u

typedef struct sdcomp_open_options {
  uint32_t size;        /* sizeof(sdcomp_open_options) */
  uint32_t abi_version; /* SDCOMP_ABI_VERSION: of the header that the caller was compiled with */
  const char *path;     /* file that holds the payload. NULL: the library's own file (as dladdr names it; a
                           relative name needs the working directory of dlopen), or, where that carries none,
                           `<library>.weights` beside it */
  uint32_t threads;     /* that compute, the caller's included; 0: one per CPU that the process may use */
  uint32_t flags;       /* SDCOMP_OPEN_* */
} sdcomp_open_options;

#define SDCOMP_OPEN_OPTIONS_INIT {sizeof(sdcomp_open_options), SDCOMP_ABI_VERSION, NULL, 0, 0}

/* Checks the interface version, the CPU and the payload, maps the weights read-only (shared by all processes
 * that open the file) and starts threads - 1 workers, which sleep unless a program runs. Sets *model to NULL
 * on failure. The file may be renamed or deleted while it is open, but must not be written or truncated:
 * replace an artifact by renaming a new file over it. */
SDCOMP_API sdcomp_status sdcomp_open(const sdcomp_open_options *options, sdcomp_model **model, char *error,
                                     size_t error_bytes);

/* Gives everything back. SDCOMP_BUSY, and nothing happens, while the model has contexts. NULL is accepted. */
SDCOMP_API sdcomp_status sdcomp_close(sdcomp_model *model);

/* ---- Looking ------------------------------------------------------------------------------------------- */

/* The manifest: JSON with programs, sizes, target, algorithms, adapters, and the licence and metadata of the
 * checkpoint. */
SDCOMP_API const char *sdcomp_describe(const sdcomp_model *model);

SDCOMP_API uint32_t sdcomp_thread_count(const sdcomp_model *model);

SDCOMP_API uint32_t sdcomp_program_count(const sdcomp_model *model);

typedef struct sdcomp_program_info {
  uint32_t size; /* sizeof(sdcomp_program_info), set by the caller */
  uint32_t input_count;
  uint32_t output_count;
  uint32_t kernel_count;
  const char *name;
  uint64_t arena_bytes;   /* intermediate values; a context holds as much as its greediest program needs */
  uint64_t weights_bytes; /* the part of the payload that the program reads */
  uint64_t trace_events;  /* capacity of sdcomp_run_options.trace that is enough for every run */
} sdcomp_program_info;

typedef struct sdcomp_tensor_info {
  uint32_t size; /* sizeof(sdcomp_tensor_info), set by the caller */
  uint32_t rank; /* at most 8 */
  const char *name;
  const char *dtype; /* "f32" or "i32", in the CPU's byte order */
  uint64_t shape[8];
  uint64_t bytes; /* row-major, without gaps */
} sdcomp_tensor_info;

/* Fill the part of *info that its size covers; SDCOMP_INVALID for a number out of range. */
SDCOMP_API sdcomp_status sdcomp_program(const sdcomp_model *model, uint32_t program,
                                        sdcomp_program_info *info);
SDCOMP_API sdcomp_status sdcomp_input(const sdcomp_model *model, uint32_t program, uint32_t index,
                                      sdcomp_tensor_info *info);
SDCOMP_API sdcomp_status sdcomp_output(const sdcomp_model *model, uint32_t program, uint32_t index,
                                       sdcomp_tensor_info *info);

/* NULL for a number out of range. */
SDCOMP_API const char *sdcomp_kernel_name(const sdcomp_model *model, uint32_t program, uint32_t kernel);

/* Bytes of the payload that the manifest names by offset and size, such as the tokenizer. NULL where they are
 * not inside of it. */
SDCOMP_API const void *sdcomp_asset(const sdcomp_model *model, uint64_t offset, uint64_t bytes);

/* ---- Running ------------------------------------------------------------------------------------------- */

/* A context holds one arena, as large as the greediest program needs, and the state that programs leave for
 * each other. Its pages are taken from the system when they are first written. */
SDCOMP_API sdcomp_status sdcomp_context_create(sdcomp_model *model, sdcomp_context **context, char *error,
                                               size_t error_bytes);

/* SDCOMP_BUSY, and nothing happens, while a run is in progress. NULL is accepted. */
SDCOMP_API sdcomp_status sdcomp_context_destroy(sdcomp_context *context);

/* Called on the thread that called sdcomp_run, between two ranges of its work, when kernels were finished
 * since the last call; the last call of a run that succeeds has done == total. It may call sdcomp_cancel; it
 * must not call sdcomp_run of the same model, which waits for this run. */
typedef void (*sdcomp_progress)(void *user, uint32_t done, uint32_t total);

typedef struct sdcomp_trace_event {
  uint32_t kernel; /* number of the kernel; sdcomp_kernel_name */
  uint32_t worker; /* 0 is the thread that called sdcomp_run */
  uint32_t tile_begin, tile_end;
  uint64_t begin_ns, end_ns; /* CLOCK_MONOTONIC */
} sdcomp_trace_event;

/* Called on the thread that called sdcomp_run after each kernel, while nothing else runs, with its number and
 * the addresses of its operands, which may be read and written: what a debugger needs. Like a progress
 * callback, it may call sdcomp_cancel and must not call sdcomp_run of the same model. */
typedef void (*sdcomp_observe)(void *user, uint32_t kernel, void *const *operands);

typedef struct sdcomp_run_options {
  uint32_t size;             /* sizeof(sdcomp_run_options) */
  uint32_t flags;            /* none is defined: 0 */
  sdcomp_progress progress;  /* or NULL */
  void *user;                /* handed to progress and observe */
  sdcomp_trace_event *trace; /* receives one event per range of work; NULL, which costs nothing: no trace */
  uint64_t trace_capacity;   /* events that trace holds; what does not fit is dropped but counted */
  uint64_t *trace_count;     /* or NULL: number of events of the run */
  sdcomp_observe observe;    /* or NULL. Kernels then run one after the other, in the order of their numbers,
                                each on all threads. Only without progress and trace */
} sdcomp_run_options;

#define SDCOMP_RUN_OPTIONS_INIT {sizeof(sdcomp_run_options), 0, NULL, NULL, NULL, 0, NULL, NULL}

/* Computes a program: inputs and outputs are arrays of as many pointers as the program has, each aligned to
 * SDCOMP_ALIGNMENT; no output overlaps an input or another output. Returns when the outputs are complete.
 * The calling thread computes along. Runs of one model take turns: each has all threads and caches to
 * itself. The result is the same, bit for bit, with any number of threads. Refused with SDCOMP_MISSING where
 * the program reads state of a program that did not succeed in this context. options may be NULL. The
 * floating-point environment is left alone: the calling thread computes in its own, workers in that of the
 * thread that called sdcomp_open; the two should agree. On Linux, where the model has a thread for every CPU
 * of the process, the calling thread keeps to one of them until it returns, but for calls of `progress`. */
SDCOMP_API sdcomp_status sdcomp_run(sdcomp_context *context, uint32_t program, const void *const *inputs,
                                    void *const *outputs, const sdcomp_run_options *options, char *error,
                                    size_t error_bytes);

/* Ends the run in progress in this context: it returns SDCOMP_CANCELLED as soon as every thread has finished
 * the range at hand, or at once if it was waiting for its turn. Without effect where no run is in progress.
 * One atomic store: may be called from any thread and from a signal handler. */
SDCOMP_API void sdcomp_cancel(sdcomp_context *context);

/* ---- Giving memory back -------------------------------------------------------------------------------- */

/* Drops the resident pages of a program's weights (those that lie wholly inside its part of the payload).
 * They come back from the file when they are next read, so it is always safe, and pays after the last run of
 * a program such as the text encoder. */
SDCOMP_API sdcomp_status sdcomp_release(const sdcomp_model *model, uint32_t program);

/* Gives the pages of the arena back to the system; the state stays. SDCOMP_BUSY while a run is in progress.
 */
SDCOMP_API sdcomp_status sdcomp_context_trim(sdcomp_context *context);

#ifdef __cplusplus
}
#endif

#endif
