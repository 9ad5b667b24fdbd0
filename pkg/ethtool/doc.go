// Package ethtool turns on what a network card's driver can do and Linux leaves off at
// first (linux/ethtool.h).
package ethtool
