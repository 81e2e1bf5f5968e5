"""Placeholder until the extension modules are declared here."""

from setuptools import setup

setup()
