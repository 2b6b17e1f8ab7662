"""What is protected: sites, plans, their groups, and where their aliases lead."""
