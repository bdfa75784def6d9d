import torch

LARGEST_LEARNED = 32 * 2**20  # bytes, with what an allocator writes beside a block: glibc's DEFAULT_MMAP_THRESHOLD_MAX


def keep_freed_memory() -> None:
    """Lets the C library keep up to 64 MB that were freed at its heap's top, instead of handing them to the system.

    An update's temporaries are a few megabytes, freed and asked for again hundreds of times a second. glibc gives the
    top of its heap back as soon as that is twice as large as the largest block that it has seen mapped and freed, and
    the system then maps, and clears, page for page anew. A block of nearly 32 MB, the largest that it learns from, made
    and freed once, teaches it otherwise. It learns nothing where the environment sets its thresholds
    (``MALLOC_TRIM_THRESHOLD_``, ``MALLOC_MMAP_THRESHOLD_``), and other C libraries take no notice.
    """
    torch.empty(LARGEST_LEARNED - 2**16, dtype=torch.uint8, device="cpu")
