"""The compiled cores. Everything else about the package stands in pyproject.toml."""

import os

from Cython.Build import cythonize
from setuptools import Extension, setup

DEBUG = bool(os.environ.get("OXIDICOM_DEBUG"))
"""Assertions and overflow checks in the compiled cores; slower."""

SANITIZE = os.environ.get("OXIDICOM_SANITIZE", "")
"""Value of -fsanitize for a fuzzing build, such as `address,undefined`."""

compile_args = ["-O2" if SANITIZE else "-O1", "-g"] if DEBUG or SANITIZE else ["-O3"]
# Not Cython's own overflowcheck, which fails on an enum whose values are expressions.
compile_args.append("-ftrapv" if DEBUG else "-DCYTHON_WITHOUT_ASSERTIONS")
link_args = []
if SANITIZE:
    # A finding ends the process, as a fuzzer expects.
    compile_args += [f"-fsanitize={SANITIZE}", "-fno-sanitize-recover=all"]
    compile_args += ["-fno-omit-frame-pointer"]
    if "fuzzer" in SANITIZE:
        # clang 17 and later check calls through pointers in C, too; atheris has no handler for it.
        compile_args += ["-fno-sanitize=function"]
    link_args += [f"-fsanitize={SANITIZE}"]

extensions = [
    Extension(
        f"oxidicom.{name}",
        [f"src/oxidicom/{name}.pyx"],
        extra_compile_args=compile_args,
        extra_link_args=link_args,
    )
    for name in (
        "_pdu",
        "_dataset",
        "_group_sync",
        "_writer",
        "_dimse",
        "_peer_socket",
        "_fastpath",
        "_receiver",
    )
]

setup(
    ext_modules=cythonize(extensions, compiler_directives={"language_level": "3"}),
    options={"build_ext": {"parallel": os.cpu_count()}},
)
