"""Policies that draw operations for each image: RandAugment, AutoAugment and others."""
