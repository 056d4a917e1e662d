/* Compiler attributes behind short names, so that prototypes carry real checks and
 * other compilers (nvcc, C++) still read every header. */
#ifndef MABN_BASE_ATTR_H
#define MABN_BASE_ATTR_H

#if defined(__GNUC__)
#define MABN_MUST_USE __attribute__((warn_unused_result))
#define MABN_NORETURN __attribute__((noreturn))
#define MABN_PRINTF(format_index, first_arg) \
    __attribute__((format(printf, format_index, first_arg)))
#define MABN_UNUSED __attribute__((unused))
#else
#define MABN_MUST_USE
#define MABN_NORETURN
#define MABN_PRINTF(format_index, first_arg)
#define MABN_UNUSED
#endif

/* MABN_ADDRESS_SANITIZER: 1 in a build with AddressSanitizer; gcc and clang say it differently. */
#ifdef __has_feature
#define MABN_HAS_FEATURE(name) __has_feature(name)
#else
#define MABN_HAS_FEATURE(name) 0
#endif
#ifdef __SANITIZE_ADDRESS__
#define MABN_ADDRESS_SANITIZER 1
#else
#define MABN_ADDRESS_SANITIZER MABN_HAS_FEATURE(address_sanitizer)
#endif

/* MABN_CLONES: compile this function for several instruction sets and choose at load time.
 * Off under sanitizers, whose run-time is not up yet when the choice is made. */
#if defined(__GNUC__) && !defined(__clang__) && defined(__x86_64__) && !defined(__CUDACC__) && \
    !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__) && !defined(MABN_NO_CLONES)
#define MABN_CLONES __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define MABN_CLONES
#endif

#ifdef __cplusplus
#define MABN_BEGIN_DECLS extern "C" {
#define MABN_END_DECLS }
#else
#define MABN_BEGIN_DECLS
#define MABN_END_DECLS
#endif

#endif
