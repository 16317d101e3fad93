"""The command line: options in, one call, report out.

Touches: the garbage collector. Most processes live for a fraction of a second and import much: with Python's
thresholds a sixth of an idle pass would go into looking for garbage that is not there.
"""

import gc

gc.set_threshold(50_000, 20, 50)
