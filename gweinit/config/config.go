// Package config is the schema of the settings that people write for a
// gateway: provision.yaml and network.yaml. Builder and device check them with
// the same code.
package config
