"""What an attacker can make of the statistics that devices send: PFA, section 5.4."""
