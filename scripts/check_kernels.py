"""Compiles the kernels through NVRTC; see check_kernels.sh, which runs this."""

import ctypes
import re
import subprocess
import sys
import tempfile

KERNELS = "src/model/device/kernels/"
# hidden, heads: BERT-base, BERT-large, the reference's default, and odd ones.
SHAPES = [(768, 12), (1024, 16), (256, 8), (33, 3), (5, 1)]
TOLD = SHAPES[:2]
ARCHITECTURES = ["80", "90"]
# Bytes that a thread may keep in memory for want of registers: the compiler does so with a few that are used once.
MOST_SPILLED = 32


def source():
    """The files that src/model/device/source.rs puts together, in its order."""
    with open("src/model/device/source.rs", encoding="utf-8") as text:
        names = re.findall(r'include_str!\("kernels/(.*?)"\)', text.read())
    parts = []
    for name in names:
        with open(KERNELS + name, encoding="utf-8") as part:
            parts.append(part.read())
    return "".join(parts)


def compiled(nvrtc, text, architecture, constants):
    """The PTX, or the end with NVRTC's words."""
    program = ctypes.c_void_p()
    nvrtc.nvrtcCreateProgram(ctypes.byref(program), text.encode(), b"kernels.cu", 0, None, None)
    options = [f"--gpu-architecture=compute_{architecture}", "--std=c++17", "--diag-suppress=177"]
    options = [o.encode() for o in options + [f"-D{name}={value}" for name, value in constants.items()]]
    result = nvrtc.nvrtcCompileProgram(program, len(options), (ctypes.c_char_p * len(options))(*options))
    size = ctypes.c_size_t()
    size_of, copy = (nvrtc.nvrtcGetPTXSize, nvrtc.nvrtcGetPTX) if result == 0 else (
        nvrtc.nvrtcGetProgramLogSize, nvrtc.nvrtcGetProgramLog)
    size_of(program, ctypes.byref(size))
    buffer = ctypes.create_string_buffer(size.value)
    copy(program, buffer)
    nvrtc.nvrtcDestroyProgram(ctypes.byref(program))
    if result != 0:
        sys.exit(f"sm_{architecture}, {constants}:\n{buffer.value.decode()}")
    return buffer.value


def assembled(toolkit, ptx, architecture):
    """(kernel, registers, shared bytes, spilled bytes) of each kernel."""
    with tempfile.NamedTemporaryFile(suffix=".ptx") as file:
        file.write(ptx)
        file.flush()
        command = [f"{toolkit}/bin/ptxas", "-v", f"-arch=sm_{architecture}", file.name, "-o", "/dev/null"]
        told = subprocess.run(command, check=True, stderr=subprocess.PIPE, text=True).stderr
    for part in told.split("Compiling entry function ")[1:]:
        number = lambda pattern: int((re.search(pattern, part) or [0, 0])[1])
        spilled = number(r"(\d+) bytes spill stores") + number(r"(\d+) bytes spill loads")
        yield part.split("'")[1], number(r"Used (\d+) registers"), number(r"(\d+) bytes smem"), spilled


def main():
    nvrtc, toolkit, text = ctypes.CDLL("libnvrtc.so.13"), sys.argv[1], source()
    table, spills, programs = {}, [], 0
    for hidden, heads in SHAPES:
        for bert in (0, 1):
            for bf16 in (0, 1):
                shape = {"HIDDEN": hidden, "HEADS": heads, "HEAD_DIM": hidden // heads}
                constants = shape | {"ARCH_BERT": bert, "STORE_BF16": bf16}
                for architecture in ARCHITECTURES:
                    ptx = compiled(nvrtc, text, architecture, constants)
                    programs += 1
                    for kernel, registers, shared, spilled in assembled(toolkit, ptx, architecture):
                        if spilled > MOST_SPILLED:
                            spills.append(f"{kernel}: {spilled} bytes, sm_{architecture}, {constants}")
                        if (hidden, heads) in TOLD and bert and bf16:
                            table.setdefault(kernel, []).append(f"{registers}, {shared}")
    print(f"{programs} programs of {len(table)} kernels compiled")
    print("| registers a thread, bytes of shared memory |", *(f"{h}, sm_{a} |" for h, _ in TOLD for a in ARCHITECTURES))
    print("|---|" + "---:|" * (len(TOLD) * len(ARCHITECTURES)))
    for kernel, figures in sorted(table.items()):
        print(f"| `{kernel}` |", " | ".join(figures), "|")
    if spills:
        sys.exit("registers in memory:\n" + "\n".join(spills))


if __name__ == "__main__":
    main()
