"""LISA's architecture, one file per box of its diagram."""
