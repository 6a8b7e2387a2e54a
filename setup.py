"""The compiled parts; everything else is in pyproject.toml.

Not built for the limited API: there each module imports `inspect` at start, 17 ms of the 30 that we allow ourselves.
"""

import os
import subprocess

from Cython.Build import cythonize
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

MODULES = (
    "_domain",
    "_launch",
    "_tasks",
    "_signals",
    "_pins",
    "_destinations",
    "_sockets",
    "_messages",
    "_unix_sockets",
    "_images",
    "_exits",
    "_observe",
    "_approvals",
    "_journal",
    "_wakeups",
    "_writers",
    "_slots",
    "_questions",
    "_forks",
    "_procfs",
    "_places",
    "_cached_paths",
    "_shown_ways",
    "_virtual_root",
    "_virtual_acts",
    "_virtual_listing",
    "_paths",
    "_path_table",
    "_path_calls",
    "_path_values",
    "_users",
    "_metadata_acts",
    "_looking_acts",
    "_path_acts",
    "_path_records",
    "_mediate",
    "_path_lane",
    "_opening",
    "_openers",
    "_opens",
    "_programs",
    "_redirect",
    "_loaders",
    "_promises",
    "_new_image",
    "_rooted",
    "_attest",
    "_poller",
    "_handling",
    "_workers",
    "_handlers",
    "_socket_calls",
    "_commands",
    "_exec",
    "_exec_paths",
    "_core",
    "_program",
    "_native",
    "_memory",
    "_machine",
    "_view_table",
    "_listing",
)
SANITIZE = os.environ.get("SANDLOCK_SANITIZE", "")
FLAGS = ["-O2", "-Wall", "-Wextra", "-Wno-unused-parameter", "-Wno-missing-field-initializers"]
if SANITIZE:
    FLAGS = ["-O1", "-g", "-fno-omit-frame-pointer", f"-fsanitize={SANITIZE}"]


def extension(name):
    return Extension(
        f"sandlock.{name}",
        [f"sandlock/{name}.pyx"],
        include_dirs=["sandlock", "sandlock/include"],
        extra_compile_args=FLAGS,
        extra_link_args=[f"-fsanitize={SANITIZE}"] if SANITIZE else [],
        depends=[
            "sandlock/_rawsys.h",
            "sandlock/_watch.h",
            "sandlock/_message.h",
            "sandlock/include/sandlock/handler.h",
        ],
    )


class BuildInit(build_ext):
    """Also compiles the run's init: a freestanding static program that the core executes from memory."""

    def run(self):
        super().run()
        place = "sandlock" if self.inplace else os.path.join(self.build_lib, "sandlock")
        os.makedirs(place, exist_ok=True)
        compiler = os.environ.get("CC", "cc")
        subprocess.run(
            [
                compiler, "-Os", "-static", "-nostdlib", "-ffreestanding", "-fno-stack-protector", "-fno-pic",
                "-no-pie",
                "-fno-asynchronous-unwind-tables", "-Wall", "-Wextra", "-Werror", "-Isandlock",
                "-Wl,-z,noseparate-code", "-Wl,--build-id=none", "-Wl,-z,noexecstack", "-s",
                "sandlock/init.c", "-o", os.path.join(place, "_init.elf"),
            ],
            check=True,
        )  # fmt: skip

    def get_outputs(self):
        place = "sandlock" if self.inplace else os.path.join(self.build_lib, "sandlock")
        return [*super().get_outputs(), os.path.join(place, "_init.elf")]


setup(
    ext_modules=cythonize(
        [extension(name) for name in MODULES],
        build_dir="build/cython",
        annotate=bool(os.environ.get("SANDLOCK_ANNOTATE")),
        compiler_directives={"language_level": "3", "auto_pickle": False, "cdivision": True},
    ),
    cffi_modules=["sandlock/_sys_build.py:ffibuilder"],
    cmdclass={"build_ext": BuildInit},
)
