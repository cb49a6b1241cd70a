# SPDX-License-Identifier: GPL-3.0-or-later
"""The form of "downsample particles": its parameters, in the words of the people who fill it in."""

from __future__ import annotations

from pyworkflow.protocol import ProtStreamingBase, params
from pyworkflow.protocol.constants import LEVEL_ADVANCED

from ..core.plan import FilterShape, Recenter
from ..engine.job_checks import DEFAULT_PARTICLES_PER_STACK
from .alignments import addConventionParam
from .particles import PARTICLES_OR_CLASSES

RECENTER_MODES = [Recenter.WHOLE_PIXELS, Recenter.EXACT]
FILTER_SHAPES = [FilterShape.BUTTERWORTH, FilterShape.RAISED_COSINE]
HALF_THE_OUTPUT_BOX = -1
ODD_BOXES = (
    "Odd boxes are exact here, but RELION 3.1 reconstructs wrong maps from them without any warning, so choose an "
    "even box."
)


def defineDownsampleForm(form):
    """Add all parameters to a protocol's form."""
    _defineInput(form)
    form.addSection(label="Downsampling")
    defineBox(form)
    _defineRecentring(form)
    defineFilters(form)
    _defineNormalization(form)
    _defineStorage(form)
    _defineStreaming(form)
    form.addParallelSection(threads=4, mpi=1)
    form.getParam("numberOfThreads").help.set(
        "Number of worker processes. Each reads, transforms and writes its own images. One per core is a good "
        "choice, unless the disk is the bottleneck. The result does not depend on this number."
    )
    form.getParam("numberOfMpi").help.set(
        "If more than 1, mpirun starts this many programs, on one or several computers, each with _Threads_ worker "
        "processes. They share the work on every output stack. The result does not depend on this number.\n"
        "With a queue for steps, each output stack becomes a separate queue job instead."
    )


def _defineInput(form):
    form.addSection(label="Input")
    form.addParam(
        "inputParticles",
        params.PointerParam,
        pointerClass=PARTICLES_OR_CLASSES,
        important=True,
        label="Input particles",
        help="The particles to downsample. Averages also work, and stay averages. From 2D or 3D classes, the "
        "particles in the classes are used, with the alignment that they have there. The output keeps their "
        "ids, CTF, acquisition, classes and all other attributes.",
    )
    form.addParam(
        "alignments3D",
        params.PointerParam,
        pointerClass="SetOfParticles,SetOfClasses3D",
        allowsNull=True,
        label="Alignments 3D",
        help="Optional. Particles (or 3D classes) with the same ids whose 3D alignment replaces that of the input "
        "particles, such as the result of a refinement. Their pixel size may differ. Input particles that are "
        "not in this set are left out. The output carries this alignment. It takes precedence over _Alignments "
        "2D_.",
    )
    form.addParam(
        "alignments2D",
        params.PointerParam,
        pointerClass="SetOfParticles,SetOfClasses2D",
        allowsNull=True,
        label="Alignments 2D",
        help="Optional. Particles (or 2D classes) with the same ids whose 2D alignment replaces that of the input "
        "particles, such as the result of a 2D classification. Their pixel size may differ. Input particles "
        "that are not in this set are left out. The output carries this alignment. Not used if _Alignments 3D_ "
        "is given.",
    )
    addConventionParam(form)


def defineBox(form):
    """Add the boxes and the pixel size, of particles or volumes."""
    group = form.addGroup("Box and pixel size")
    group.addParam(
        "cropSize",
        params.IntParam,
        allowsNull=True,
        label="Crop / pad to box size (px)",
        help="Box size, in input pixels, to crop the images to before anything else; the pixel size does not change. "
        "If it is larger than the input box, each image is padded with its mean. Empty: keep the box.\n"
        "Example: 320 for particles whose box of 400 px is larger than they need.\n" + ODD_BOXES,
    )
    group.addParam(
        "targetPixelSize",
        params.FloatParam,
        allowsNull=True,
        label="Desired approx. pixel size (Å/px)",
        help="Downsample to about this pixel size: the even box with the nearest pixel size is chosen, and the "
        "output set carries the actual pixel size.\n"
        "Example: for 320 px at 1.31 Å/px, a desired 3 Å/px gives a box of 140 px at 2.994 Å/px.\n"
        "Give this or _Fourier crop to box size_, not both. Empty: no downsampling.",
    )
    group.addParam(
        "fourierCropSize",
        params.IntParam,
        allowsNull=True,
        label="Fourier crop to box size (px)",
        help="Downsample to this box size by cropping the Fourier transform of each image, so that all information "
        "below the new Nyquist frequency is kept. At most the box size after cropping.\n"
        "Example: for 320 px at 1.31 Å/px, 128 px gives 3.275 Å/px, with Nyquist at 6.55 Å.\n"
        "Give this or _Desired approx. pixel size_, not both. Empty: no downsampling.\n" + ODD_BOXES,
    )


def _defineRecentring(form):
    group = form.addGroup("Recentring")
    group.addParam(
        "recenter",
        params.BooleanParam,
        default=False,
        label="Recenter using aligned shifts",
        help="Move each particle to the centre of its box by the shift from its alignment. The shifts and "
        "coordinates of the output are corrected by exactly this amount, so that no shift is applied twice.\n"
        "Afterwards, use only the alignment that comes with the output, or one found on it. An alignment of the "
        "full-size particles still contains the whole shift; assigning it to the output (for example with "
        "_assign alignment_) would apply the shift twice.",
    )
    group.addParam(
        "recenterMode",
        params.EnumParam,
        choices=[mode.value for mode in RECENTER_MODES],
        default=0,
        condition="recenter",
        expertLevel=LEVEL_ADVANCED,
        label="Recentring",
        help="_whole pixels_: apply the shift rounded to whole input pixels, without interpolation; the rest stays "
        "in the alignment.\n"
        "_exact_: apply the full shift, fractions of a pixel by a phase ramp in Fourier space; the output "
        "shifts are zero.",
    )


def defineFilters(form):
    """Add the filters, of particles or volumes."""
    group = form.addGroup("Filters")
    group.addParam(
        "lowpassResolution",
        params.FloatParam,
        allowsNull=True,
        label="Lowpass resolution (Å)",
        help="Remove detail finer than this. The gain is 1/2 at this resolution. Downsampling alone already removes "
        "everything beyond the new Nyquist limit (twice the pixel size). Empty: no filter. Example: 8",
    )
    group.addParam(
        "highpassResolution",
        params.FloatParam,
        allowsNull=True,
        expertLevel=LEVEL_ADVANCED,
        label="Highpass resolution (Å)",
        help="Remove variation slower than this, such as ice gradients; this also removes the mean. The gain is 1/2 "
        "at this resolution. Give a value well above the particle diameter. Empty: no filter. Example: 400",
    )
    group.addParam(
        "filterShape",
        params.EnumParam,
        choices=[shape.value for shape in FILTER_SHAPES],
        default=0,
        expertLevel=LEVEL_ADVANCED,
        label="Filter shape",
        help="Shape of the lowpass and highpass edges. _Butterworth_: smooth, 1 / (1 + (f/fc)^(2 order)). _raised "
        "cosine_: falls from 1 to 0 over the given width, as in RELION.",
    )
    group.addParam(
        "filterOrder",
        params.IntParam,
        default=8,
        condition=f"filterShape == {FILTER_SHAPES.index(FilterShape.BUTTERWORTH)}",
        expertLevel=LEVEL_ADVANCED,
        label="Filter order",
        help="Steepness of the Butterworth edge. 8 is usual; larger values are steeper and cause more ringing.",
    )
    group.addParam(
        "filterWidth",
        params.FloatParam,
        default=2,
        condition=f"filterShape == {FILTER_SHAPES.index(FilterShape.RAISED_COSINE)}",
        expertLevel=LEVEL_ADVANCED,
        label="Filter width (Fourier shells)",
        help="Full width of the cosine edge, in Fourier shells (pixels of the output's Fourier transform; one shell "
        "is 1 / (box x pixel size) in 1/Å). RELION uses 2; wider edges cause less ringing.",
    )


def _defineNormalization(form):
    group = form.addGroup("Normalization")
    group.addParam(
        "doNormalize",
        params.BooleanParam,
        default=False,
        label="Normalize background",
        help="Give the background of each output image a mean of 0 and a standard deviation of 1, as RELION's "
        "preprocessing does; a plane fitted to the pixels outside the circle is subtracted first. Averaging "
        "pixels reduces the noise, so normalised images are no longer normalised after downsampling.",
    )
    group.addParam(
        "backRadius",
        params.IntParam,
        default=HALF_THE_OUTPUT_BOX,
        condition="doNormalize",
        label="Background radius (px)",
        help="Radius of the circle, in output pixels; everything outside it counts as background. -1: half the "
        "output box.",
    )


def _defineStorage(form):
    group = form.addGroup("Storage")
    group.addParam(
        "saveFloat16",
        params.BooleanParam,
        default=False,
        label="Save results in 16-bit floating point",
        help="Saves half the disk space (MRC mode 12); the rounding error is about 2e-4 of the images' standard "
        "deviation. RELION 4 and later, cryoSPARC and cryoDRGN can read it; RELION 3.1 and Xmipp programs that "
        "rewrite images cannot.",
    )
    group.addParam(
        "particlesPerStack",
        params.IntParam,
        default=DEFAULT_PARTICLES_PER_STACK,
        expertLevel=LEVEL_ADVANCED,
        label="Particles per stack",
        help="The output is written to stack files of up to this many particles.",
    )
    group.addParam(
        "skipCorrupt",
        params.BooleanParam,
        default=False,
        expertLevel=LEVEL_ADVANCED,
        label="Skip corrupt particles",
        help="What to do with particles that cannot be used: their file is missing or cut short, their box size "
        "differs, their pixels are not numbers, their alignment matrix is singular … _No_: all images are "
        "processed, then the run fails and lists these particles in _bad_particles.star_ in its folder. _Yes_: "
        "they are left out and listed there, and the summary says how many.",
    )


def _defineStreaming(form):
    ProtStreamingBase._defineStreamingParams(None, form)
    form.getParam("streamingSleepOnWait").help.set(
        "Only for open inputs, such as particles that are being extracted while the microscope is running: seconds "
        "to wait between two checks for new particles. Checking unchanged inputs costs almost nothing."
    )
    form.addParam(
        "streamingBatchWait",
        params.IntParam,
        default=60,
        label="Longest wait for a full stack (secs)",
        help="Only for open inputs. New particles are downsampled as soon as there are enough for a stack (see "
        "_Particles per stack_), or when the first of them has waited this long. A shorter wait gives results "
        "sooner, in more and smaller stacks. If an alignment is connected, particles wait until it contains "
        "them.",
    )
