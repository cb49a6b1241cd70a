# SPDX-License-Identifier: GPL-3.0-or-later
"""Each protocol on simulated particles whose truth is known."""

from pathlib import Path

import numpy as np
from pwem.protocols import ProtImportVolumes
from pyworkflow.tests import BaseTest, setupTestProject

from downsample_plugin import demo
from downsample_plugin.protocols import (
    ProtDownsampleParticles,
    ProtDownsampleVolumes,
    ProtRestoreFullSize,
    ProtShiftParticleCenter,
)

SMALL_BOX = 64


class TestDownsample(BaseTest):
    """Downsample, move the centre, and go back to full size."""

    @classmethod
    def setUpClass(cls):
        """Simulate, import and downsample particles, recentred."""
        setupTestProject(cls)
        demo.simulate(Path("simulated"))
        cls.original = demo.importSimulated(cls.proj).outputParticles
        cls.protocol = cls.proj.newProtocol(
            ProtDownsampleParticles, fourierCropSize=SMALL_BOX, recenter=True, inputParticles=cls.original
        )
        cls.launchProtocol(cls.protocol)
        cls.small = cls.protocol.outputParticles

    def testDownsample(self):
        """Box, pixel size, number; each shift is what whole pixels leave of it."""
        self.assertEqual(self.small.getXDim(), SMALL_BOX)
        self.assertAlmostEqual(self.small.getSamplingRate(), demo.APIX * demo.BOX / SMALL_BOX)
        self.assertEqual(self.small.getIdSet(), self.original.getIdSet())
        shifts = np.array([_shift(particle) for particle in self.small.iterItems()])
        self.assertLessEqual(np.abs(shifts).max(), 0.5 * SMALL_BOX / demo.BOX + 1e-6)

    def testRestoreFullSize(self):
        """The original images with the original alignment."""
        protocol = self.newProtocol(ProtRestoreFullSize, inputParticles=self.small, downsampled=self.small)
        self.launchProtocol(protocol)
        restored = {particle.getObjId(): particle.clone() for particle in protocol.outputParticles.iterItems()}
        self.assertEqual(len(restored), demo.PARTICLES)
        for particle in self.original.iterItems():
            found = restored[particle.getObjId()]
            self.assertEqual(found.getLocation(), particle.getLocation())
            matrices = (each.getTransform().getMatrix() for each in (found, particle))
            np.testing.assert_allclose(*matrices, atol=1e-4)

    def testDownsampleVolumes(self):
        """The simulated particle's map in the box and pixel size of the small particles."""
        imported = self.newProtocol(
            ProtImportVolumes, filesPath="simulated", filesPattern="map.mrc", samplingRate=demo.APIX
        )
        self.launchProtocol(imported)
        protocol = self.newProtocol(ProtDownsampleVolumes, inputVolumes=imported.outputVolume, likeParticles=self.small)
        self.launchProtocol(protocol)
        self.assertEqual(protocol.outputVolume.getDim(), (SMALL_BOX,) * 3)
        self.assertEqual(protocol.outputVolume.getSamplingRate(), self.small.getSamplingRate())

    def testMoveCenter(self):
        """A point 20 Å along z becomes the origin: M = [A | t] becomes [A | t - p]."""
        protocol = self.newProtocol(ProtShiftParticleCenter, inputParticles=self.small, zCenter=20.0)
        self.launchProtocol(protocol)
        moved = [particle.getTransform().getMatrix() for particle in protocol.outputParticles.iterItems()]
        before = np.array([particle.getTransform().getMatrix() for particle in self.small.iterItems()])
        before[:, 2, 3] -= 20.0 / self.small.getSamplingRate()
        np.testing.assert_allclose(np.array(moved), before, atol=1e-6)


def _shift(particle):
    return np.linalg.inv(particle.getTransform().getMatrix())[:2, 3]
