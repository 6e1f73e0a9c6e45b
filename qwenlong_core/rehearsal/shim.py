"""The C++ part of the pretended GPU, which must be loaded before torch: this module does not import it.

A CPU build of torch lets fake tensors say that they are on ``cuda``, but its autograd engine asks the device for its
streams, and ends the process when nobody answers. Forty lines of C++ answer. They are compiled once per version of
torch, in about four seconds.
"""

from __future__ import annotations

import ctypes
import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

MADE_FOR = "2.13"
"""The torch whose headers and private interfaces this folder was written against."""

SOURCE = """
#include <ATen/detail/CUDAHooksInterface.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>

using c10::Device, c10::DeviceIndex, c10::DeviceType, c10::Stream;

static const Device first(DeviceType::CUDA, 0);

struct Guard final : c10::impl::NoOpDeviceGuardImpl<DeviceType::CUDA> {
  Device getDevice() const override { return first; }
  Device exchangeDevice(Device) const override { return first; }
  Stream getStream(Device) const noexcept override { return Stream(Stream::DEFAULT, first); }
  Stream exchangeStream(Stream) const noexcept override { return Stream(Stream::DEFAULT, first); }
  void record(void**, const Stream&, const DeviceIndex, const c10::EventFlag) const override {}
  void block(void*, const Stream&) const override {}
  bool queryEvent(void*) const override { return true; }
};

struct Hooks final : at::CUDAHooksInterface {
  explicit Hooks(at::CUDAHooksArgs) {}
  void init() const override {}
  bool hasCUDA() const override { return true; }
  bool isBuilt() const override { return true; }
  bool isAvailable() const override { return true; }
  bool hasPrimaryContext(DeviceIndex) const override { return true; }
  DeviceIndex deviceCount() const override { return 1; }
  DeviceIndex current_device() const override { return 0; }
  DeviceIndex getCurrentDevice() const override { return 0; }
  int getNumGPUs() const override { return 1; }
};

C10_REGISTER_GUARD_IMPL(CUDA, Guard)
namespace at { C10_REGISTER_CLASS(CUDAHooksRegistry, CUDAHooks, Hooks) }
"""


class NoRehearsal(RuntimeError):
    """This machine cannot rehearse; the message says what is missing."""


def load_shim() -> None:
    """Compile the C++ part if need be, and load it.

    Raises:
        NoRehearsal: torch is imported already, is of another version or built for CUDA, or there is no ``g++``.
    """
    if "torch" in sys.modules:
        raise NoRehearsal("torch is imported already: the pretended GPU has to be loaded before it")
    installed = version("torch")
    if not installed.startswith(MADE_FOR + "."):
        raise NoRehearsal(
            f"the rehearsal was made for torch {MADE_FOR}, and this is torch {installed}: install that one"
        )
    ctypes.CDLL(str(_compiled(_torch_folder(), installed)), mode=ctypes.RTLD_GLOBAL)


def obstacle() -> str | None:
    """Why this machine cannot rehearse, or ``None``."""
    try:
        _torch_folder()
    except NoRehearsal as error:
        return str(error)
    installed = version("torch")
    if not installed.startswith(MADE_FOR + "."):
        return _other_torch(installed)
    return None if shutil.which("g++") or _library(installed).is_file() else _NO_COMPILER


_NO_COMPILER = (
    "the rehearsal compiles 40 lines of C++, and there is no `g++`: install it (Debian: `apt-get install g++`)"
)


def _other_torch(installed: str) -> str:
    return f"the rehearsal was made for torch {MADE_FOR}, and this is torch {installed}: rehearse with that one"


def _torch_folder() -> Path:
    found = importlib.util.find_spec("torch")
    if found is None or found.origin is None:
        raise NoRehearsal("torch is not installed: run `make setup`")
    folder = Path(found.origin).parent
    if (folder / "lib" / "libtorch_cuda.so").is_file():
        raise NoRehearsal(
            f"torch in {folder} is built for CUDA, whose devices cannot be pretended: rehearse with the CPU build, as"
            " `make setup` installs it"
        )
    return folder


def _library(installed: str) -> Path:
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "qwenlong"
    digest = hashlib.sha256(f"{installed}\n{SOURCE}".encode()).hexdigest()[:16]
    return cache / f"pretended-gpu-{digest}.so"


def _compiled(torch: Path, installed: str) -> Path:
    library = _library(installed)
    if library.is_file():
        return library
    compiler = shutil.which("g++")
    if compiler is None:
        raise NoRehearsal(_NO_COMPILER)
    library.parent.mkdir(parents=True, exist_ok=True)
    # Two rehearsals may compile at once: each writes its own file, and the last one to finish wins.
    with tempfile.TemporaryDirectory(dir=library.parent) as folder:
        source, built = Path(folder) / "shim.cpp", Path(folder) / "shim.so"
        source.write_text(SOURCE, encoding="utf-8")
        libraries = ["-L", str(torch / "lib"), "-lc10", "-ltorch_cpu", f"-Wl,-rpath,{torch / 'lib'}"]
        command = [compiler, "-std=c++20", "-shared", "-fPIC", f"-I{torch / 'include'}", str(source), "-o", str(built)]
        done = subprocess.run([*command, *libraries], capture_output=True, text=True)
        if done.returncode:
            raise NoRehearsal(
                f"g++ could not compile the pretended GPU against torch {installed}:\n{done.stderr[-2000:]}"
            )
        built.replace(library)
    return library
